package terminal

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/pkg/client"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/chatpb"
)

const (
	callTimeout = 15 * time.Second
	firstWait   = 300 * time.Millisecond
	longestWait = 15 * time.Second
	maxOutgoing = 1000 // messages that wait to be sent
	maxTasks    = 1000
)

// errFull: more is waiting already than a person types.
var errFull = errors.New("too much is waiting to be sent")

// errNotConnected: there is no connection to ask over.
var errNotConnected = status.Error(codes.Unavailable, "not connected")

// errToken: a token was refused.
var errToken = errors.New("the token is not valid")

// entry is how the next connection is logged in. It belongs to run.
type entry struct {
	who     credentials
	token   string
	refused error // why the token went, until somebody has been told
}

// credentials are what somebody logs in with.
type credentials struct {
	account, password string
	register          bool // make the account
	try               bool // make it where one can not log in
	email, nickname   string
}

// link keeps a connection to a gate: it dials until there is one, and again where
// one that was lost does not come back by itself, logs in, and sends what is to be
// sent in the order given. Its results come as
// events. All methods are safe to call at once, and none blocks but run.
type link struct {
	dial  Dialer
	emit  func(event)
	me    credentials // that it begins with
	token string

	logins   chan credentials // from the form
	tasks    chan func(context.Context)
	outgoing chan outgoing

	mu   sync.Mutex
	conn Conn          // nil while not connected and logged in
	up   chan struct{} // closed when conn is set
}

// outgoing is a message to be sent.
type outgoing struct {
	to       int64
	id, text string
}

// event is one of the following.
type event interface{}

type (
	connecting struct{}
	// needLogin: the gate is there, and nobody is logged in. err is what became
	// of the last attempt, if any.
	needLogin struct{ err error }
	// online: logged in as user.
	online struct{ user *authpb.User }
	// offline: there is no connection; the next is tried after wait. Without a
	// wait none is tried any more.
	offline struct {
		err  error
		wait time.Duration
	}
	// came: a push.
	came struct{ message *chatpb.Message }
	// sent: what became of an outgoing message.
	sent struct {
		outgoing
		out *chatpb.SendResponse
		err error
	}
	// found: who an account or an id is.
	found struct {
		user    *authpb.User
		account string // that was asked for
		id      int64
		err     error
	}
	// history: messages of a peer.
	history struct {
		peer int64
		in   *chatpb.HistoryRequest
		out  *chatpb.HistoryResponse
		err  error
	}
	// verified: what became of a code.
	verified struct{ err error }
)

func newLink(cfg Config, emit func(event)) *link {
	return &link{
		dial:  cfg.Dial,
		token: cfg.Token,
		emit:  emit,
		me: credentials{
			account: cfg.Account, password: cfg.Password,
			try: cfg.Register, email: cfg.Email, nickname: cfg.Nickname,
		},
		logins:   make(chan credentials, 1),
		tasks:    make(chan func(context.Context), maxTasks),
		outgoing: make(chan outgoing, maxOutgoing),
		up:       make(chan struct{}),
	}
}

// run keeps the connection until ctx ends.
func (l *link) run(ctx context.Context) {
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() { l.work(ctx) })
	group.Go(func() { l.deliver(ctx) })

	e := &entry{who: l.me, token: l.token}
	for failures := 0; ctx.Err() == nil; {
		l.emit(connecting{})
		lived, err := l.session(ctx, e)
		if lived {
			failures = 0
		}
		wait, again := pause(failures, err)
		failures++
		if ctx.Err() != nil {
			return
		}
		if !again {
			l.emit(offline{err: err})
			<-ctx.Done()
			return
		}
		l.emit(offline{err: err, wait: wait})
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// pause is how long to wait before dialling again, if at all: whoever was
// kicked on purpose stays away.
func pause(failures int, err error) (wait time.Duration, again bool) {
	wait = min(firstWait<<min(failures, 10), longestWait)
	wait = wait/2 + rand.N(wait/2)
	var kick *client.KickError
	if errors.As(err, &kick) {
		return max(wait, kick.RetryAfter), kick.Code != "kicked" && kick.Code != "replaced"
	}
	var refusal *client.HandshakeError
	if errors.As(err, &refusal) {
		return max(wait, refusal.RetryAfter), refusal.Code != 426
	}
	return wait, true
}

// session is one connection, from dialling until it is lost for good. lived says
// that it was logged in.
func (l *link) session(ctx context.Context, e *entry) (lived bool, err error) {
	message := func(m *chatpb.Message) { l.emit(came{m}) }
	states, over := make(chan client.State), make(chan struct{})
	state := func(s client.State) {
		select {
		case states <- s:
		case <-over:
		}
	}
	conn, err := l.dial(ctx, e.token, message, state)
	var refusal *client.HandshakeError
	if e.token != "" && errors.As(err, &refusal) && refusal.Code == 401 {
		e.token, e.refused = "", errToken // log in anew
		conn, err = l.dial(ctx, "", message, state)
	}
	if err != nil {
		return false, err
	}
	defer func() {
		close(over) // Close waits for state
		_ = conn.Close()
	}()

	user, err := l.enter(ctx, conn, e, states)
	if err != nil {
		return false, err
	}
	l.connected(conn)
	defer l.disconnected()
	l.emit(online{user})
	for lost := false; ; {
		select {
		case s := <-states:
			switch {
			case s.Phase == client.Reconnecting:
				l.disconnected()
				l.emit(offline{err: s.Err, wait: max(s.Wait, time.Millisecond)})
				lost = true
			case s.Phase == client.Connected && lost:
				l.connected(conn)
				l.emit(online{user})
				lost = false
			}
		case <-conn.Done():
			return true, conn.Err()
		case <-ctx.Done():
			return true, ctx.Err()
		}
	}
}

func (l *link) connected(conn Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn = conn
	close(l.up)
}

// disconnected may come twice.
func (l *link) disconnected() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil {
		l.conn = nil
		l.up = make(chan struct{})
	}
}

// enter logs the connection in, and asks for credentials until it can. A
// connection that is lost before that is given up.
func (l *link) enter(ctx context.Context, conn Conn, e *entry, states <-chan client.State) (*authpb.User, error) {
	if e.token != "" && conn.UserID() != 0 {
		out := &authpb.FindResponse{}
		err := call(ctx, conn, "auth.find", &authpb.FindRequest{Id: conn.UserID()}, out)
		return out.GetUser(), err
	}
	var refused error
	for {
		if e.who.account == "" || e.who.password == "" || refused != nil {
			if refused == nil {
				refused = e.refused
			}
			e.refused = nil
			l.emit(needLogin{refused})
			if err := l.ask(ctx, conn, e, states); err != nil {
				return nil, err
			}
		}
		out, err := login(ctx, conn, &e.who)
		if err == nil {
			e.token, e.refused = out.GetToken(), nil
			return out.GetUser(), nil
		}
		switch status.Code(err) {
		case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
			return nil, err
		}
		refused = err
	}
}

// ask waits for credentials.
func (l *link) ask(ctx context.Context, conn Conn, e *entry, states <-chan client.State) error {
	for {
		select {
		case e.who = <-l.logins:
			return nil
		case s := <-states:
			if s.Phase == client.Reconnecting {
				return s.Err
			}
		case <-conn.Done():
			return conn.Err()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// login logs in, to a new account where that is wanted. Whoever starts with the
// wish to register each time registers once: a login is tried before.
func login(ctx context.Context, conn Conn, who *credentials) (*authpb.LoginResponse, error) {
	in := &authpb.LoginRequest{Account: who.account, Password: who.password, Device: "terminal"}
	out := &authpb.LoginResponse{}
	if !who.register {
		err := call(ctx, conn, "auth.login", in, out)
		if status.Code(err) != codes.Unauthenticated || !who.try {
			return out, err
		}
	}
	err := call(ctx, conn, "auth.register", &authpb.RegisterRequest{
		Account: who.account, Password: who.password, Email: who.email, Nickname: who.nickname,
	}, &authpb.RegisterResponse{})
	if err != nil {
		return nil, err
	}
	who.register, who.try = false, false
	err = call(ctx, conn, "auth.login", in, out)
	return out, err
}

func call(ctx context.Context, conn Conn, route string, in, out proto.Message) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return conn.Call(ctx, route, in, out)
}
