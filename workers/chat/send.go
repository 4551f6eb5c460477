package chat

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/motto123/minigate/pkg/sqldb"
	"github.com/motto123/minigate/pkg/tracing"
	"github.com/motto123/minigate/pkg/worker"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/chatpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// errRepeated: another transaction has stored a message of this sender and
// client_id since we looked.
var errRepeated = errors.New("chat: the message is stored already")

// Send stores a message of sender's and pushes it. The fields of in have been
// validated by the worker base.
//
// A repeat, by client_id, is answered as the first was and pushed again: the
// process that stored the first may have died before it pushed. A receiver
// tells the two by conversation and number. The same client_id with another
// text or to another receiver is ALREADY_EXISTS. One may write to oneself.
//
// Send pushes before it returns, and requests of one session are handled in
// order, so two messages of one session are pushed in the order of their
// numbers. That a push fails does not fail the send.
func (s *Service) Send(ctx context.Context, sender int64, in *chatpb.SendRequest) (*chatpb.SendResponse, error) {
	switch {
	case in.GetRoom() != "":
		return nil, status.Error(codes.Unimplemented, "there are no rooms yet")
	case !utf8.ValidString(in.GetText()) || !utf8.ValidString(in.GetClientId()):
		return nil, status.Error(codes.InvalidArgument, "text and client_id are UTF-8")
	}
	m, err := s.store(ctx, sender, in)
	if err != nil {
		return nil, fail("send", err)
	}
	s.push(ctx, in.GetTo(), m)
	return &chatpb.SendResponse{Conversation: m.GetConversation(), Number: m.GetNumber(), SentAt: m.GetSentAt()}, nil
}

// store returns the message as it is in the database, which is an earlier one
// where in repeats it.
func (s *Service) store(ctx context.Context, sender int64, in *chatpb.SendRequest) (*chatpb.Message, error) {
	first, err := s.stored(ctx, sender, in)
	if err != nil || first != nil {
		return first, err
	}
	conversation, err := s.between(ctx, sender, in.GetTo())
	if err != nil {
		return nil, err
	}
	m, err := s.add(ctx, conversation, sender, in)
	if errors.Is(err, errRepeated) {
		if first, err = s.stored(ctx, sender, in); err == nil && first == nil {
			err = errors.New("a stored message is gone")
		}
		return first, err
	}
	return m, err
}

// stored finds the message that in repeats; nil where it repeats none.
func (s *Service) stored(ctx context.Context, sender int64, in *chatpb.SendRequest) (*chatpb.Message, error) {
	m := &chatpb.Message{Sender: sender, ClientId: in.GetClientId()}
	var p pair
	err := s.cfg.DB.QueryRowContext(ctx, `
		SELECT m.conversation, m.number, m.text, m.sent_at, c.user_low, c.user_high
		FROM messages m JOIN conversations c ON c.id = m.conversation
		WHERE m.sender = ? AND m.client_id = ?`, sender, in.GetClientId()).
		Scan(&m.Conversation, &m.Number, &m.Text, &m.SentAt, &p.low, &p.high)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("find a repeated message: %w", err)
	case m.GetText() != in.GetText() || p != pairOf(sender, in.GetTo()):
		return nil, status.Error(codes.AlreadyExists, "another message was sent with this client_id")
	}
	return m, nil
}

// between finds the conversation of two users, or begins it. That one
// exists proves that its users do, so the auth service is asked once a pair.
//
// It is begun outside of the transaction that stores its first message: there
// two first messages at once would each lock the gap where the row belongs, and
// deadlock. A conversation whose first message then fails has no messages, and
// History does not tell it from one that does not exist.
func (s *Service) between(ctx context.Context, sender, receiver int64) (int64, error) {
	p := pairOf(sender, receiver)
	found, err := s.find(ctx, p)
	if err != nil || found.id != 0 {
		return found.id, err
	}
	if err := s.exists(ctx, receiver); err != nil {
		return 0, err
	}
	id, err := s.cfg.IDs.Next(ctx)
	if err != nil {
		return 0, fmt.Errorf("make an id: %w", err)
	}
	_, err = s.cfg.DB.ExecContext(ctx,
		`INSERT INTO conversations (id, user_low, user_high, last_number, created_at) VALUES (?, ?, ?, 0, ?)`,
		id, p.low, p.high, time.Now().UnixMilli())
	if sqldb.IsDuplicate(err) { // the other's first message was faster
		found, err = s.find(ctx, p)
		return found.id, err
	}
	if err != nil {
		return 0, fmt.Errorf("begin a conversation: %w", err)
	}
	return id, nil
}

func (s *Service) exists(ctx context.Context, user int64) error {
	out, err := s.cfg.Users.Users(ctx, &authpb.UsersRequest{Ids: []int64{user}})
	switch status.Code(err) {
	case codes.OK:
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted:
		return status.Error(codes.Unavailable, "the auth service is not available")
	default: // %v, for its status is not ours to pass on
		return fmt.Errorf("ask for a user: %v", err)
	}
	for _, u := range out.GetUsers() {
		if u.GetId() == user {
			return nil
		}
	}
	return status.Error(codes.NotFound, "there is no such user")
}

// add takes the next number and stores the message under it, in one
// transaction: the update locks the conversation's row, so whoever comes second
// waits, and a number that is not used in the end is not taken.
func (s *Service) add(ctx context.Context, conversation, sender int64, in *chatpb.SendRequest) (*chatpb.Message, error) {
	m := &chatpb.Message{Conversation: conversation, Sender: sender, Text: in.GetText(), ClientId: in.GetClientId()}
	err := sqldb.Tx(ctx, s.cfg.DB, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx,
			`UPDATE conversations SET last_number = last_number + 1 WHERE id = ?`, conversation); err != nil {
			return fmt.Errorf("take a number: %w", err)
		}
		if err := tx.QueryRowContext(ctx,
			`SELECT last_number FROM conversations WHERE id = ?`, conversation).Scan(&m.Number); err != nil {
			return fmt.Errorf("read the number: %w", err)
		}
		// Under the lock, so that times rise with numbers as far as clocks agree.
		m.SentAt = time.Now().UnixMilli()
		_, err := tx.ExecContext(ctx,
			`INSERT INTO messages (conversation, number, sender, client_id, text, sent_at) VALUES (?, ?, ?, ?, ?, ?)`,
			conversation, m.GetNumber(), sender, m.GetClientId(), m.GetText(), m.GetSentAt())
		if sqldb.IsDuplicate(err) {
			return errRepeated
		}
		if err != nil {
			return fmt.Errorf("store a message: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (s *Service) push(ctx context.Context, receiver int64, m *chatpb.Message) {
	id, err := s.cfg.IDs.Next(ctx)
	if err == nil {
		err = s.cfg.Push(ctx, receiver, uint64(id), m)
	}
	if errors.Is(err, worker.ErrNobody) {
		return // not connected
	}
	if err != nil {
		// The receiver finds it in the history.
		s.cfg.Log.WithFields(tracing.Fields(ctx)).WithError(err).WithField("conversation", m.GetConversation()).WithField("number", m.GetNumber()).
			Warn("message not pushed")
	}
}
