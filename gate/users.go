package gate

import (
	"context"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/presence"
)

// users counts the sessions of each user on this gate, and keeps presence in
// step with that: a user stands in it before its first session is bound, and
// leaves it after its last one is gone. It is safe to use at once.
type users struct {
	store *presence.Store
	gate  presence.Gate
	log   logrus.FieldLogger

	mu       sync.Mutex
	sessions map[int64]int
	leaving  map[int64]struct{}      // their last session is gone
	removing map[int64]chan struct{} // being taken out of presence; closed after
	wake     chan struct{}           // holds one token: look at leaving
	again    chan struct{}           // holds one token: say again who is here
}

// refreshEvery is well under the expiry of a presence, so that one missed round
// costs nothing.
const refreshEvery = 5 * time.Minute

// presenceTimeout bounds one call of the store.
const presenceTimeout = 3 * time.Second

func newUsers(store *presence.Store, gate presence.Gate, log logrus.FieldLogger) *users {
	return &users{
		store: store, gate: gate, log: log,
		sessions: make(map[int64]int), leaving: make(map[int64]struct{}), removing: make(map[int64]chan struct{}),
		wake: make(chan struct{}, 1), again: make(chan struct{}, 1),
	}
}

var errNoPresence = status.Error(codes.Unavailable, "the gate has no presence store, and binds nobody")

// bound counts one more session of user, which is in presence when it returns
// nil. An error means that it was not counted; it has gRPC's code Unavailable.
func (u *users) bound(ctx context.Context, user int64) error {
	if u.store == nil {
		return errNoPresence
	}
	u.mu.Lock()
	u.sessions[user]++
	delete(u.leaving, user)
	removing := u.removing[user]
	u.mu.Unlock()

	err := func() error {
		ctx, cancel := context.WithTimeout(ctx, presenceTimeout)
		defer cancel()
		if removing != nil {
			select {
			case <-removing:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return u.store.Add(ctx, user, u.gate)
	}()
	if err != nil {
		u.unbound(user)
		return status.Errorf(codes.Unavailable, "presence of a user: %v", err)
	}
	return nil
}

// unbound counts one session of user less.
func (u *users) unbound(user int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.sessions[user]--; u.sessions[user] > 0 {
		return
	}
	delete(u.sessions, user)
	u.leaving[user] = struct{}{}
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// count is how many users have a session here.
func (u *users) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.sessions)
}

// run takes users who left out of presence, and says again and again that the
// others are here, which also heals a Redis that lost its data. When ctx ends it
// takes out who has left by then, as far as it gets in presenceTimeout.
func (u *users) run(ctx context.Context) {
	lasting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	ticker := time.NewTicker(refreshEvery)
	defer ticker.Stop()
	for {
		select {
		case <-u.wake:
			u.removeLeft(ctx, lasting)
		case <-ticker.C:
			u.refresh(ctx)
		case <-u.again:
			u.refresh(ctx)
		case <-ctx.Done():
			timer := time.AfterFunc(presenceTimeout, cancel)
			defer timer.Stop()
			u.removeLeft(lasting, lasting)
			return
		}
	}
}

// announceAll has run say soon that all users are here.
func (u *users) announceAll() {
	select {
	case u.again <- struct{}{}:
	default:
	}
}

// removeLeft goes on until ctx ends; what it has begun then ends with lasting.
func (u *users) removeLeft(ctx, lasting context.Context) {
	for ctx.Err() == nil {
		user, done, ok := u.takeLeft()
		if !ok {
			return
		}
		call, cancel := context.WithTimeout(lasting, presenceTimeout)
		err := u.store.Remove(call, user, u.gate.ID)
		cancel()
		u.mu.Lock()
		delete(u.removing, user)
		u.mu.Unlock()
		close(done)
		if err != nil {
			// It expires by itself, and a push that comes back removes it sooner.
			u.log.WithError(err).WithField("user", user).Warn("remove a presence")
		}
	}
}

func (u *users) takeLeft() (user int64, done chan struct{}, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for user = range u.leaving {
		delete(u.leaving, user)
		done = make(chan struct{})
		u.removing[user] = done
		return user, done, true
	}
	return 0, nil, false
}

func (u *users) refresh(ctx context.Context) {
	if u.store == nil {
		return
	}
	u.mu.Lock()
	here := make([]int64, 0, len(u.sessions))
	for user := range u.sessions {
		here = append(here, user)
	}
	u.mu.Unlock()
	if err := u.store.Refresh(ctx, u.gate, here); err != nil && ctx.Err() == nil {
		u.log.WithError(err).Warn("refresh presence")
	}
}
