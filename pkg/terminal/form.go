package terminal

import (
	"strings"

	"github.com/charmbracelet/bubbles/textinput"
	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/lipgloss"
)

// form asks who logs in, or wants an account.
type form struct {
	fields   []field
	focus    int
	register bool
	busy     bool
	err      error
}

type field struct {
	label string
	only  bool // where an account is made
	input textinput.Model
}

// The fields, in this order.
const (
	account = iota
	password
	email
	nickname
)

func newForm(who credentials) *form {
	f := &form{register: who.register || who.try}
	for i, value := range []string{account: who.account, password: who.password, email: who.email, nickname: who.nickname} {
		input := textinput.New()
		input.Prompt = ""
		input.Width = 30
		input.CharLimit = 254
		input.SetValue(value)
		if i == password {
			input.EchoMode = textinput.EchoPassword
		}
		f.fields = append(f.fields, field{
			label: []string{"Account", "Password", "E-mail", "Nickname"}[i], only: i >= email, input: input,
		})
	}
	f.fields[nickname].input.Placeholder = "what others see; may be empty"
	f.move(0)
	return f
}

// asked is told that the form is to be filled, again after an error.
func (f *form) asked(err error) {
	f.busy, f.err = false, err
	if err != nil {
		f.focus = 0
		f.move(0)
	}
}

// key handles a key; done says that who wants to log in.
func (f *form) key(key tea.KeyMsg) (who credentials, done bool, cmd tea.Cmd) {
	if f.busy {
		return who, false, nil
	}
	switch pressed(key) {
	case press{key: tea.KeyTab}, press{key: tea.KeyDown}:
		f.move(1)
	case press{key: tea.KeyShiftTab}, press{key: tea.KeyUp}:
		f.move(-1)
	case press{key: tea.KeyCtrlR}:
		f.register, f.err = !f.register, nil
		f.focus = min(f.focus, password)
		f.move(0)
	case press{key: tea.KeyEnter}:
		if f.focus < len(f.shown())-1 && f.missing() >= 0 {
			f.move(1)
			break
		}
		if i := f.missing(); i >= 0 {
			f.focus = i
			f.move(0)
			break
		}
		f.busy, f.err = true, nil
		return credentials{
			account: f.value(account), password: f.fields[password].input.Value(),
			register: f.register, email: f.value(email), nickname: f.value(nickname),
		}, true, nil
	default:
		return who, false, f.update(key)
	}
	return who, false, textinput.Blink
}

func (f *form) update(msg tea.Msg) tea.Cmd { return pass(&f.fields[f.focus].input, msg) }

func (f *form) value(i int) string { return strings.TrimSpace(f.fields[i].input.Value()) }

// shown are the fields that matter now.
func (f *form) shown() []field {
	if f.register {
		return f.fields
	}
	return f.fields[:email]
}

// missing is the first field that must not be empty and is; -1 where none is.
func (f *form) missing() int {
	for i := range f.shown() {
		if i != nickname && f.value(i) == "" {
			return i
		}
	}
	return -1
}

func (f *form) move(n int) {
	count := len(f.shown())
	f.focus = (f.focus + n + count) % count
	for i := range f.fields {
		if i == f.focus {
			f.fields[i].input.Focus()
		} else {
			f.fields[i].input.Blur()
		}
	}
}

// formWidth is how many columns a text in the form has.
const formWidth = 42

// view draws the form; trouble is why there is no connection, if there is none.
func (f *form) view(k *look, gate string, trouble []string, width, height int) string {
	title, other := "Log in", "ctrl+r  make an account"
	if f.register {
		title, other = "Make an account", "ctrl+r  log in"
	}
	rows := []string{
		k.logo.Render("◆ minigate") + "  " + k.dim.Render(gate), "",
		k.bold.Render(title), "",
	}
	for i, field := range f.shown() {
		label := k.dim
		if i == f.focus {
			label = k.accent
		}
		rows = append(rows, label.Render(fit(field.label, 10))+field.input.View())
	}
	rows = append(rows, "")
	switch {
	case trouble != nil:
		rows = append(rows, trouble...)
	case f.busy:
		rows = append(rows, k.dim.Render("one moment …"))
	case f.err != nil:
		for _, l := range wrap(explain(f.err), formWidth) {
			rows = append(rows, k.bad.Render(l))
		}
	default:
		rows = append(rows, k.dim.Render("enter  go on"))
	}
	rows = append(rows, k.dim.Render(other), k.dim.Render("ctrl+c  quit"))
	box := k.box.Render(strings.Join(rows, "\n"))
	return lipgloss.Place(width, height, lipgloss.Center, lipgloss.Center, box)
}
