package terminal

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/charmbracelet/bubbles/textinput"
	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/x/ansi"
)

// screen is the chat on a whole terminal, a tea.Model.
type screen struct {
	*talk
	look          *look
	gate          string
	form          *form // nil unless it is asked who logs in
	entered       bool  // somebody was logged in
	looking       bool  // it will be looked again for who was not there
	input         textinput.Model
	width, height int
	scroll        int // lines below the last one that is shown
	page          page
}

// tick counts down to the next attempt to connect.
type tick struct{}

// lookAgain is due for somebody who was not there.
type lookAgain struct{}

func runScreen(ctx context.Context, cfg Config) error {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()

	var program *tea.Program
	link := newLink(cfg, func(ev event) { program.Send(ev) })
	program = tea.NewProgram(newScreen(newTalk(link, cfg.To), cfg),
		tea.WithContext(ctx), tea.WithAltScreen(), tea.WithInput(cfg.In), tea.WithOutput(cfg.Out))
	group.Go(func() { link.run(ctx) })
	_, err := program.Run()
	if errors.Is(err, tea.ErrInterrupted) {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func newScreen(t *talk, cfg Config) *screen {
	k := newLook()
	t.patient = true
	input := textinput.New()
	input.Prompt = "› "
	input.PromptStyle = k.accent
	input.PlaceholderStyle = k.dim
	input.Focus()
	return &screen{talk: t, look: k, gate: cfg.Gate, input: input, width: 80, height: 24}
}

// Init is called once.
func (s *screen) Init() tea.Cmd { return textinput.Blink }

// Update takes note of a key or an event.
func (s *screen) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		s.width, s.height = max(msg.Width, 1), max(msg.Height, 1)
		s.settle()
		return s, nil
	case tick:
		if _, waiting := s.state.(offline); waiting && time.Now().Before(s.retry) {
			return s, again()
		}
		return s, nil
	case lookAgain:
		s.looking = false
		if s.wanted != "" && s.patient {
			s.link.find(s.wanted)
		}
		return s, nil
	case tea.KeyMsg:
		if msg.Type == tea.KeyCtrlC {
			return s, tea.Quit
		}
		if s.form != nil {
			return s, s.fill(msg)
		}
		return s, s.key(msg)
	}
	switch ev := msg.(type) {
	case connecting, online, offline, needLogin, came, sent, found, history, verified:
		return s, s.happened(ev)
	}
	if s.form != nil {
		return s, s.form.update(msg)
	}
	return s, pass(&s.input, msg)
}

func again() tea.Cmd {
	return tea.Tick(200*time.Millisecond, func(time.Time) tea.Msg { return tick{} })
}

func (s *screen) happened(ev event) tea.Cmd {
	s.handle(ev)
	var cmd tea.Cmd
	switch ev := ev.(type) {
	case needLogin:
		if s.form == nil {
			s.form = newForm(s.link.me)
		}
		s.form.asked(ev.err)
		cmd = textinput.Blink
	case online:
		s.form, s.entered = nil, true
	case offline:
		if ev.wait > 0 {
			cmd = again()
		}
	case found:
		if ev.err != nil && s.wanted != "" && s.patient && !s.looking {
			s.looking = true
			cmd = tea.Tick(2*time.Second, func(time.Time) tea.Msg { return lookAgain{} })
		}
	}
	s.settle()
	return cmd
}

// fill passes a key to the form.
func (s *screen) fill(key tea.KeyMsg) tea.Cmd {
	who, done, cmd := s.form.key(key)
	if done {
		s.link.login(who)
	}
	return cmd
}

func (s *screen) key(key tea.KeyMsg) tea.Cmd {
	half := max(s.bodyHeight()/2, 1)
	switch pressed(key) {
	case press{key: tea.KeyEnter}:
		text := s.input.Value()
		s.input.Reset()
		s.scroll = 0
		if s.typed(text) {
			return tea.Quit
		}
	case press{key: tea.KeyTab}, press{key: tea.KeyCtrlN}, press{key: tea.KeyDown, alt: true}:
		s.scroll, s.helping = 0, false
		s.turn(1)
	case press{key: tea.KeyShiftTab}, press{key: tea.KeyCtrlP}, press{key: tea.KeyUp, alt: true}:
		s.scroll, s.helping = 0, false
		s.turn(-1)
	case press{key: tea.KeyPgUp}:
		s.scroll += half
	case press{key: tea.KeyPgDown}:
		s.scroll -= half
	case press{key: tea.KeyUp}:
		s.scroll++
	case press{key: tea.KeyDown}:
		s.scroll--
	case press{key: tea.KeyEsc}:
		s.scroll = 0
		s.notice, s.helping = "", false
	default:
		return pass(&s.input, key)
	}
	s.settle()
	return nil
}

// settle brings what is shown in line with what is known: it renders the open
// conversation where that has changed, keeps the place of who has scrolled up,
// and asks for earlier messages at the top.
func (s *screen) settle() {
	s.input.Width = max(s.width-ansi.StringWidth(s.input.Prompt)-2, 1)
	s.input.Placeholder = "/to NAME writes to somebody"
	if s.open == nil {
		s.page = page{}
		s.scroll = 0
		return
	}
	s.input.Placeholder = "Write to " + s.open.name
	s.open.unread = 0
	before := s.page
	if before.peer != s.open || before.version != s.version || before.width != s.paneWidth() {
		s.page = s.look.render(s.open, s.paneWidth(), before)
		s.page.version = s.version
		if before.peer == s.open && before.width == s.page.width && s.scroll > 0 {
			s.scroll += s.page.below(before) // what came since
		}
	}
	top := max(0, len(s.page.rows)-s.bodyHeight())
	if s.scroll >= top && s.open.loaded {
		s.earlier(s.open)
	}
	s.scroll = min(max(s.scroll, 0), top)
}
