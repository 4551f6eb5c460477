package terminal

import (
	"context"
	"crypto/rand"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/chatpb"
)

// login takes what the form was filled with.
func (l *link) login(who credentials) {
	select {
	case l.logins <- who:
	default: // the last one is still being tried
	}
}

// send queues a message; it is sent when there is a connection, and again under
// the same id where that is lost before the answer.
func (l *link) send(to int64, text string) (id string, err error) {
	id = rand.Text()
	select {
	case l.outgoing <- outgoing{to: to, id: id, text: text}:
		return id, nil
	default:
		return "", errFull
	}
}

func (l *link) find(account string) {
	l.later(func(ctx context.Context) {
		out := &authpb.FindResponse{}
		err := l.call(ctx, "auth.find", &authpb.FindRequest{Account: account}, out)
		l.emit(found{user: out.GetUser(), account: account, err: err})
	})
}

func (l *link) name(id int64) {
	l.later(func(ctx context.Context) {
		out := &authpb.FindResponse{}
		err := l.call(ctx, "auth.find", &authpb.FindRequest{Id: id}, out)
		l.emit(found{user: out.GetUser(), id: id, err: err})
	})
}

func (l *link) history(in *chatpb.HistoryRequest) {
	l.later(func(ctx context.Context) {
		out := &chatpb.HistoryResponse{}
		err := l.call(ctx, "chat.history", in, out)
		if status.Code(err) == codes.NotFound {
			err = nil // nobody has said anything yet
		}
		l.emit(history{peer: in.GetTo(), in: in, out: out, err: err})
	})
}

func (l *link) verify(code string) {
	l.later(func(ctx context.Context) {
		l.emit(verified{l.call(ctx, "auth.verify_email", &authpb.VerifyEmailRequest{Code: code}, &authpb.VerifyEmailResponse{})})
	})
}

// later has a task done by the worker. A person does not fill its queue; what
// does not fit is asked for again at the next occasion.
func (l *link) later(task func(context.Context)) {
	select {
	case l.tasks <- task:
	default:
	}
}

func (l *link) work(ctx context.Context) {
	for {
		select {
		case task := <-l.tasks:
			task(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// call asks over the connection that is there now.
func (l *link) call(ctx context.Context, route string, in, out proto.Message) error {
	l.mu.Lock()
	conn := l.conn
	l.mu.Unlock()
	if conn == nil {
		return errNotConnected
	}
	return call(ctx, conn, route, in, out)
}

// deliver sends one message after the other, each until it is answered.
func (l *link) deliver(ctx context.Context) {
	for {
		select {
		case o := <-l.outgoing:
			in := &chatpb.SendRequest{To: o.to, ClientId: o.id, Text: o.text}
			out := &chatpb.SendResponse{}
			if err := l.persist(ctx, in, out); ctx.Err() == nil {
				l.emit(sent{outgoing: o, out: out, err: err})
			}
		case <-ctx.Done():
			return
		}
	}
}

// persist sends until there is an answer that is not about now.
func (l *link) persist(ctx context.Context, in *chatpb.SendRequest, out *chatpb.SendResponse) error {
	for attempt := 0; ; attempt++ {
		l.mu.Lock()
		up := l.up
		l.mu.Unlock()
		select {
		case <-up:
		case <-ctx.Done():
			return ctx.Err()
		}
		err := l.call(ctx, "chat.send", in, out)
		switch status.Code(err) {
		case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Aborted, codes.Canceled:
		default:
			return err
		}
		wait, _ := pause(attempt, nil)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
