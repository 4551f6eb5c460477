package terminal

import (
	"github.com/charmbracelet/bubbles/textinput"
	tea "github.com/charmbracelet/bubbletea"
)

// press is a key without the text it may carry, to be compared with. Text that
// arrives in one read is one message whose String is that text, so that the
// word "down" would be the key of that name: keys are told by their type.
type press struct {
	key tea.KeyType
	alt bool
}

func pressed(key tea.KeyMsg) press { return press{key.Type, key.Alt} }

// pass gives a message to an input, whose own bindings compare strings. They
// leave alone what is marked as pasted.
func pass(input *textinput.Model, msg tea.Msg) (cmd tea.Cmd) {
	if key, is := msg.(tea.KeyMsg); is && key.Type == tea.KeyRunes && !key.Alt {
		key.Paste = true
		msg = key
	}
	*input, cmd = input.Update(msg)
	return cmd
}
