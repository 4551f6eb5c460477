package terminal

import (
	"testing"

	tea "github.com/charmbracelet/bubbletea"
)

// keyNames are words that tea gives to keys, and bindings of text inputs.
var keyNames = []string{
	"down", "up", "enter", "tab", "shift+tab", "esc", "home", "end", "left", "right", "pgup", "pgdown",
	"delete", "backspace", "ctrl+v", "ctrl+r", "ctrl+c", "ctrl+n", "ctrl+p", "ctrl+u", "alt+up", "alt+left",
}

func runes(text string) tea.KeyMsg { return tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune(text)} }

// TestKeyNamesAreText: a word that arrives in one read is text, though it is
// the name of a key.
func TestKeyNamesAreText(t *testing.T) {
	s := onScreen()
	s.hears(2, 1, "x")
	s.hears(3, 1, "x")
	s.Update(tea.KeyMsg{Type: tea.KeyTab})
	open := s.open
	for _, name := range keyNames {
		s.input.SetValue("press ")
		s.Update(runes(name))
		s.Update(runes("!"))
		if got := s.input.Value(); got != "press "+name+"!" || s.open != open {
			t.Errorf("%q typed in one read: the input has %q", name, got)
		}
	}
	s.Update(needLogin{})
	for _, name := range keyNames {
		input := &s.form.fields[account].input
		input.SetValue("")
		s.Update(runes(name))
		if input.Value() != name || s.form.focus != account || s.form.register {
			t.Errorf("%q typed into the form: %q, field %d", name, input.Value(), s.form.focus)
		}
	}
}

// TestKeys: keys are still keys.
func TestKeys(t *testing.T) {
	s := onScreen()
	s.hears(2, 1, "x")
	s.hears(3, 1, "x")
	for i, step := range []struct {
		key  tea.KeyMsg
		open int64
	}{
		{tea.KeyMsg{Type: tea.KeyTab}, 3},
		{tea.KeyMsg{Type: tea.KeyCtrlN}, 2},
		{tea.KeyMsg{Type: tea.KeyDown, Alt: true}, 3},
		{tea.KeyMsg{Type: tea.KeyUp, Alt: true}, 2},
		{tea.KeyMsg{Type: tea.KeyShiftTab}, 3},
		{tea.KeyMsg{Type: tea.KeyCtrlP}, 2},
	} {
		if s.Update(step.key); s.open == nil || s.open.id != step.open {
			t.Fatalf("step %d, %s: %+v is open, want %d", i, step.key, s.open, step.open)
		}
	}
	s.Update(runes("one two"))
	s.Update(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("b"), Alt: true}) // a word back
	s.Update(runes("and "))
	s.Update(tea.KeyMsg{Type: tea.KeyEnd})
	s.Update(tea.KeyMsg{Type: tea.KeyBackspace})
	if got := s.input.Value(); got != "one and tw" {
		t.Errorf("edited to %q", got)
	}
	s.Update(tea.KeyMsg{Type: tea.KeyEnter})
	if s.input.Value() != "" || s.open.lines[len(s.open.lines)-1].text != "one and tw" {
		t.Errorf("enter does not send: %+v", s.open.lines)
	}
}
