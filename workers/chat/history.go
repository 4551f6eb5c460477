package chat

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/motto123/minigate/pkg/sqldb"
	"github.com/motto123/minigate/proto/chatpb"
	pkgerrors "github.com/pkg/errors"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const defaultLimit = 50

// pair are the users of a conversation, in rising order.
type pair struct{ low, high int64 }

func pairOf(a, b int64) pair { return pair{min(a, b), max(a, b)} }

// History returns messages of one conversation in rising order. The fields of
// in have been validated by the worker base. To who does not take part, the
// conversation is NOT_FOUND, like one that does not exist.
func (s *Service) History(ctx context.Context, user int64, in *chatpb.HistoryRequest) (*chatpb.HistoryResponse, error) {
	if in.GetConversation() != 0 && in.GetTo() != 0 {
		return nil, status.Error(codes.InvalidArgument, "conversation and to exclude each other")
	}
	var c conversation
	var err error
	if in.GetConversation() != 0 {
		c, err = s.get(ctx, in.GetConversation())
	} else {
		c, err = s.find(ctx, pairOf(user, in.GetTo()))
	}
	if err != nil {
		return nil, fail("history", err)
	}
	if c.last == 0 || user != c.low && user != c.high {
		return nil, status.Error(codes.NotFound, "there is no such conversation")
	}
	out, err := s.read(ctx, c.id, in)
	if err != nil {
		return nil, fail("history", err)
	}
	return out, nil
}

// conversation is a row of its table; the zero value is none.
type conversation struct {
	id, last int64
	pair
}

func (s *Service) get(ctx context.Context, id int64) (conversation, error) {
	return scanConversation(s.cfg.DB.QueryRowContext(ctx,
		`SELECT id, last_number, user_low, user_high FROM conversations WHERE id = ?`, id))
}

func (s *Service) find(ctx context.Context, p pair) (conversation, error) {
	return scanConversation(s.cfg.DB.QueryRowContext(ctx,
		`SELECT id, last_number, user_low, user_high FROM conversations WHERE user_low = ? AND user_high = ?`,
		p.low, p.high))
}

func scanConversation(row *sql.Row) (c conversation, err error) {
	err = row.Scan(&c.id, &c.last, &c.low, &c.high)
	if errors.Is(err, sql.ErrNoRows) {
		return conversation{}, nil
	}
	if err != nil {
		return conversation{}, fmt.Errorf("find a conversation: %w", err)
	}
	return c, nil
}

// read reads one page. It asks for one message more than the limit, which says
// whether there are further ones.
func (s *Service) read(ctx context.Context, id int64, in *chatpb.HistoryRequest) (*chatpb.HistoryResponse, error) {
	limit := int(in.GetLimit())
	if limit == 0 {
		limit = defaultLimit
	}
	const fields = `SELECT number, sender, client_id, text, sent_at FROM messages WHERE conversation = ?`
	var rows *sql.Rows
	var err error
	switch {
	case in.GetAfter() > 0:
		rows, err = s.cfg.DB.QueryContext(ctx,
			fields+` AND number > ? ORDER BY number LIMIT ?`, id, in.GetAfter(), limit+1)
	case in.GetBefore() > 0:
		rows, err = s.cfg.DB.QueryContext(ctx,
			fields+` AND number < ? ORDER BY number DESC LIMIT ?`, id, in.GetBefore(), limit+1)
	default:
		rows, err = s.cfg.DB.QueryContext(ctx,
			fields+` ORDER BY number DESC LIMIT ?`, id, limit+1)
	}
	if err != nil {
		return nil, fmt.Errorf("read messages: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err has said what matters

	out := &chatpb.HistoryResponse{}
	for bytes := 0; rows.Next(); {
		m := &chatpb.Message{Conversation: id}
		if err := rows.Scan(&m.Number, &m.Sender, &m.ClientId, &m.Text, &m.SentAt); err != nil {
			return nil, fmt.Errorf("read a message: %w", err)
		}
		bytes += size(m)
		if len(out.GetMessages()) == limit || len(out.GetMessages()) > 0 && bytes > s.cfg.HistoryBytes {
			out.More = true
			break
		}
		out.Messages = append(out.Messages, m)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read messages: %w", err)
	}
	if in.GetAfter() == 0 {
		slices.Reverse(out.GetMessages())
	}
	return out, nil
}

// size is about what a message takes in JSON, where it is largest: a control
// character is six bytes there, as in "\u0007".
func size(m *chatpb.Message) int {
	n := 200 // names, numbers and punctuation
	for _, s := range []string{m.GetText(), m.GetClientId()} {
		n += len(s)
		for i := range len(s) {
			switch c := s[i]; {
			case c < ' ':
				n += 5
			case c == '"' || c == '\\':
				n++
			}
		}
	}
	return n
}

// fail keeps what is a status already, says UNAVAILABLE where the database is
// gone, and leaves the rest to be logged and answered as INTERNAL.
func fail(operation string, err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	if sqldb.Unavailable(err) {
		return status.Error(codes.Unavailable, "the database is not available")
	}
	return pkgerrors.Wrapf(err, "chat: %s", operation) // with the stack, for the log
}
