// Package chat is the service of direct messages between two users: each is
// stored before it is answered, numbered within its conversation without a gap,
// stored once however often its sender repeats it, and pushed to every
// connection of its receiver.
//
// It refuses to know accounts (the auth service says who exists), sessions and
// gates (the worker base does), and rooms, which do not exist yet.
package chat

import (
	"context"
	"errors"

	"github.com/motto123/minigate/pkg/sqldb"
	"github.com/motto123/minigate/pkg/tracing"
	"github.com/motto123/minigate/pkg/worker"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/chatpb"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
)

// The routes of this service, and its push, whose Ack arrives under its name.
const (
	RouteSend    = "chat.send"
	RouteHistory = "chat.history"
	PushMessage  = "chat.message"
)

// defaultHistoryBytes keeps a whole page, as JSON, below the 1 MiB that a
// message to a client may have unless a gate is set otherwise.
const defaultHistoryBytes = 512 << 10

// Config is what the service needs. All of it is required but HistoryBytes.
type Config struct {
	DB *sqldb.DB
	// IDs makes the ids of conversations and pushes.
	IDs IDs
	// Users is asked whether a receiver exists.
	Users Users
	// Push brings a message to its receiver; see PushBy.
	Push Push
	Log  logrus.FieldLogger
	// HistoryBytes bounds the texts of one answer of chat.history, counted as in
	// JSON; 512 KiB where it is 0. One message is always in it.
	HistoryBytes int
}

// IDs makes ids that are unique in the whole installation.
type IDs interface {
	Next(ctx context.Context) (int64, error)
}

// Users is the part of authpb.AuthClient that is used here.
type Users interface {
	Users(ctx context.Context, in *authpb.UsersRequest, opts ...grpc.CallOption) (*authpb.UsersResponse, error)
}

// Push sends a message to every connection of a user, under an id that the
// clients acknowledge.
type Push func(ctx context.Context, user int64, id uint64, m *chatpb.Message) error

// PushBy pushes through w.
func PushBy(w *worker.Worker) Push {
	return func(ctx context.Context, user int64, id uint64, m *chatpb.Message) error {
		return w.Push(ctx, worker.ToUser(user), PushMessage, m, worker.PushID(id))
	}
}

// Service holds no state of its own beside the database: any number of replicas
// may run. Its methods are safe to call at once.
type Service struct {
	cfg Config
}

// New returns the service; it starts nothing.
func New(cfg Config) (*Service, error) {
	switch {
	case cfg.DB == nil:
		return nil, errors.New("chat: no database")
	case cfg.IDs == nil:
		return nil, errors.New("chat: nothing to make ids")
	case cfg.Users == nil:
		return nil, errors.New("chat: nobody to ask for users")
	case cfg.Push == nil:
		return nil, errors.New("chat: no way to push")
	case cfg.Log == nil:
		return nil, errors.New("chat: no log")
	}
	if cfg.HistoryBytes <= 0 {
		cfg.HistoryBytes = defaultHistoryBytes
	}
	return &Service{cfg: cfg}, nil
}

// Register puts the routes of the service on w. All of them need a login.
func (s *Service) Register(w *worker.Worker) {
	worker.Handle(w, RouteSend, func(ctx context.Context, in *chatpb.SendRequest) (*chatpb.SendResponse, error) {
		return s.Send(ctx, worker.From(ctx).User, in)
	})
	worker.Handle(w, RouteHistory, func(ctx context.Context, in *chatpb.HistoryRequest) (*chatpb.HistoryResponse, error) {
		return s.History(ctx, worker.From(ctx).User, in)
	})
	worker.HandleAck(w, PushMessage, s.acked)
}

// acked takes the receiver's word that a push arrived. Nothing depends on it:
// who missed a push sees it by the gap in the numbers and asks for the history.
func (s *Service) acked(ctx context.Context, push uint64) error {
	s.cfg.Log.WithFields(tracing.Fields(ctx)).WithField("push", push).Debug("message acknowledged")
	return nil
}
