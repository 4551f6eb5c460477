package gate

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// watching runs a watcher until the test ends.
func watching(t *testing.T, serve func(fd int, what happening), woken func()) *watcher {
	t.Helper()
	w, err := openWatcher()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- w.run(serve, woken, func() {}) }()
	t.Cleanup(func() {
		if err := w.stop(); err != nil {
			t.Error(err)
		}
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("stop does not end it")
		}
		if err := w.close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// TestEveryWakeIsHeard: what was left before wake is seen by a call of woken after it,
// however many wake at once, and while sockets are served.
func TestEveryWakeIsHeard(t *testing.T) {
	var left, seen atomic.Int64
	heard := make(chan struct{}, 1)
	w := watching(t, func(int, happening) {}, func() {
		seen.Store(left.Load())
		select {
		case heard <- struct{}{}:
		default:
		}
	})
	const rounds = 3000
	for _, callers := range []int{1, 8} {
		for round := range rounds {
			var all sync.WaitGroup
			for range callers {
				all.Go(func() {
					left.Add(1)
					if err := w.wake(); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			late := time.After(10 * time.Second)
			for seen.Load() < left.Load() {
				select {
				case <-heard:
				case <-late:
					t.Fatalf("%d callers, round %d: %d of %d are seen", callers, round, seen.Load(), left.Load())
				}
			}
		}
	}
}

// TestMoreSocketsThanOneTurnTakes: all of them are served, and each only for what has
// happened to it.
func TestMoreSocketsThanOneTurnTakes(t *testing.T) {
	const n = 3 * eventsOfOneTurn
	var readable [4 * n]atomic.Int32
	w := watching(t, func(fd int, what happening) {
		if what.readable && fd < len(readable) {
			readable[fd].Add(1)
		}
	}, func() {})
	var ours []int
	for range n {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Write(pair[1], []byte("x")); err != nil {
			t.Fatal(err)
		}
		ours = append(ours, pair[0])
		t.Cleanup(func() { _, _ = unix.Close(pair[0]), unix.Close(pair[1]) })
	}
	for _, fd := range ours {
		if fd >= len(readable) {
			t.Fatalf("descriptor %d", fd)
		}
		if err := w.add(fd); err != nil {
			t.Fatal(err)
		}
	}
	for _, fd := range ours {
		eventually(t, fmt.Sprintf("descriptor %d is served", fd), func() bool { return readable[fd].Load() > 0 })
	}
}

// TestAnIdleWatcherRests: after it was woken it waits again, and does not look for ever.
func TestAnIdleWatcherRests(t *testing.T) {
	var turns atomic.Int64
	w := watching(t, func(int, happening) {}, func() { turns.Add(1) })
	if err := w.wake(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	if n := turns.Load(); n != 1 {
		t.Errorf("woken once, it was woken %d times", n)
	}
}
