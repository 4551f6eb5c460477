package auth

import (
	"context"
	"database/sql"

	"github.com/pkg/errors"
	"golang.org/x/text/secure/precis"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/sqldb"
	"github.com/motto123/minigate/proto/authpb"
)

// user is a row of the table users.
type user struct {
	id            int64
	account       string
	key           string
	nickname      string
	email         string
	emailVerified bool
	passwordHash  string
	createdAt     int64 // Unix milliseconds
}

// own is how a user sees itself.
func (u user) own() *authpb.User {
	return &authpb.User{Id: u.id, Account: u.account, Nickname: u.nickname, Email: u.email, EmailVerified: u.emailVerified}
}

// public is how others see it.
func (u user) public() *authpb.User {
	return &authpb.User{Id: u.id, Account: u.account, Nickname: u.nickname}
}

// The column account_key has as many bytes.
const maxKeyBytes = 255

// fold returns the form in which accounts are compared: RFC 8265's profile for
// user names that are not told apart by case. ok is false for a text that can
// be nobody's account; the key is then one that nobody has.
func fold(account string) (key string, ok bool) {
	key, err := precis.UsernameCaseMapped.String(account)
	if err != nil || len(key) > maxKeyBytes {
		return "", false
	}
	return key, true
}

// lookup returns the key of an account that somebody names, and what it counts
// under in limits. What can be no account is looked for and counted like any
// other: only that nobody has it shall tell them apart.
func lookup(account string) (key, subject string) {
	key, ok := fold(account)
	if !ok {
		return "", digest(account)
	}
	return key, digest(key)
}

// users is the service's table.
type users struct {
	db *sqldb.DB
}

var errNoUser = status.Error(codes.NotFound, "no such user")

const columns = "SELECT id, account, account_key, nickname, email, email_verified, password_hash, created_at FROM users WHERE "

func scan(row interface{ Scan(...any) error }) (user, error) {
	var u user
	err := row.Scan(&u.id, &u.account, &u.key, &u.nickname, &u.email, &u.emailVerified, &u.passwordHash, &u.createdAt)
	return u, err
}

// byKey finds the user of a folded account; errNoUser where there is none.
func (t users) byKey(ctx context.Context, key string) (user, error) {
	return t.one(ctx, columns+"account_key = ?", key)
}

func (t users) byID(ctx context.Context, id int64) (user, error) {
	return t.one(ctx, columns+"id = ?", id)
}

func (t users) one(ctx context.Context, query string, arg any) (user, error) {
	u, err := scan(t.db.QueryRowContext(ctx, query, arg))
	if errors.Is(err, sql.ErrNoRows) {
		return user{}, errNoUser
	}
	return u, errors.Wrap(err, "find a user")
}

// byIDs finds those of some users that exist, in no order.
func (t users) byIDs(ctx context.Context, ids []int64) (found []user, err error) {
	if len(ids) == 0 {
		return nil, nil
	}
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = id
	}
	rows, err := t.db.QueryContext(ctx, columns+"id IN ("+sqldb.Placeholders(len(ids))+")", args...)
	if err != nil {
		return nil, errors.Wrap(err, "find users")
	}
	defer rows.Close()
	for rows.Next() {
		u, err := scan(rows)
		if err != nil {
			return nil, errors.Wrap(err, "find users")
		}
		found = append(found, u)
	}
	return found, errors.Wrap(rows.Err(), "find users")
}

// insert adds a user, and keeps it only if then succeeds. Where a transaction
// has to be run again, so has then.
func (t users) insert(ctx context.Context, u user, then func() error) error {
	return sqldb.Tx(ctx, t.db, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx,
			"INSERT INTO users (id, account, account_key, nickname, email, email_verified, password_hash, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
			u.id, u.account, u.key, u.nickname, u.email, u.emailVerified, u.passwordHash, u.createdAt)
		if err != nil {
			return errors.Wrap(err, "insert a user")
		}
		return then()
	})
}

// setVerified notes that an address is its user's.
func (t users) setVerified(ctx context.Context, u user) error {
	_, err := t.db.ExecContext(ctx, "UPDATE users SET email_verified = TRUE WHERE id = ? AND email = ?", u.id, u.email)
	return errors.Wrap(err, "note a verified address")
}

// setPassword replaces the password that u was read with, and reports whether
// it was still there. verified notes the address as proved besides.
func (t users) setPassword(ctx context.Context, u user, hash string, verified bool) (bool, error) {
	result, err := t.db.ExecContext(ctx, "UPDATE users SET password_hash = ?, email_verified = email_verified OR ? WHERE id = ? AND password_hash = ?",
		hash, verified, u.id, u.passwordHash)
	if err != nil {
		return false, errors.Wrap(err, "replace a password")
	}
	n, err := result.RowsAffected()
	return n == 1, errors.Wrap(err, "replace a password")
}
