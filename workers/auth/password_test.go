package auth

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// Made by the reference implementation:
// argon2 "somesalt" -id -t 2 -k 65536 -p 1 for "password".
const reference = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"

func cheap(t *testing.T, concurrent int) *passwords {
	t.Helper()
	p, err := newPasswords(PasswordConfig{MemoryKiB: 64, Iterations: 1, Concurrent: concurrent})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPasswords(t *testing.T) {
	p := cheap(t, 2)
	ctx := t.Context()
	first, err := p.hash(ctx, "päss\x00word")
	if err != nil {
		t.Fatal(err)
	}
	second, err := p.hash(ctx, "päss\x00word")
	if err != nil || first == second {
		t.Fatalf("the same password twice: %s and %s, %v", first, second, err)
	}
	if !strings.HasPrefix(first, "$argon2id$v=19$m=64,t=1,p=1$") {
		t.Errorf("the hash is %s", first)
	}
	for password, want := range map[string]bool{"päss\x00word": true, "päss": false, "": false, "pass\x00word": false} {
		if fits, err := p.verify(ctx, first, password); fits != want || err != nil {
			t.Errorf("%q: %v, %v; want %v", password, fits, err, want)
		}
	}
	if fits, err := p.verify(ctx, reference, "password"); !fits || err != nil {
		t.Errorf("the reference's hash: %v, %v", fits, err)
	}
	if p.outdated(first) || !p.outdated(reference) {
		t.Error("what is outdated is what was made at another cost")
	}
	runs := p.runs.Load()
	if fits, err := p.verify(ctx, "", ""); fits || err != nil || p.runs.Load() != runs+1 {
		t.Errorf("an account that does not exist: %v, %v, %d hashes; want one, that does not fit", fits, err, p.runs.Load()-runs)
	}
}

func TestDefaultCostIsOWASPs(t *testing.T) {
	p, err := newPasswords(PasswordConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(p.dummy, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("an account that does not exist costs %s", p.dummy)
	}
}

// Memory is bounded by the number of hashes under way; others wait, as long as
// somebody waits for them.
func TestHashesWaitTheirTurn(t *testing.T) {
	p := cheap(t, 1)
	p.slots <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := p.hash(ctx, "x")
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) || p.runs.Load() != 0 {
		t.Fatalf("with no room: %v after %d hashes", err, p.runs.Load())
	}
	<-p.slots
	if _, err := p.hash(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	if len(p.slots) != 0 {
		t.Error("a hash that is done still has its room")
	}
}

func TestMalformedHashes(t *testing.T) {
	p := cheap(t, 1)
	good, err := p.hash(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		"x", "$", "$$$$$", strings.Replace(good, "argon2id", "argon2i", 1), strings.Replace(good, "v=19", "v=16", 1),
		strings.Replace(good, "m=64", "m=4294967295", 1), strings.Replace(good, "m=64", "m=-1", 1), strings.Replace(good, "m=64", "m=64x", 1),
		strings.Replace(good, "t=1", "t=0", 1), strings.Replace(good, "t=1", "t=1000", 1), strings.Replace(good, "p=1", "p=0", 1),
		strings.Replace(good, "p=1", "p=256", 1), good + "$", good + "!", good[:strings.LastIndexByte(good, '$')+1], good[:len(good)-1] + "\n",
	} {
		if fits, err := p.verify(t.Context(), bad, "x"); fits || !errors.Is(err, errPasswordHash) {
			t.Errorf("%q: %v, %v", bad, fits, err)
		}
	}
}

func FuzzParsePHC(f *testing.F) {
	f.Add(reference)
	f.Add("$argon2id$v=19$m=64,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Fuzz(func(t *testing.T, encoded string) {
		p, err := parsePHC(encoded)
		if err != nil {
			return
		}
		if p.memory > maxMemoryKiB || p.iterations < 1 || p.iterations > maxIterations || p.parallelism < 1 {
			t.Errorf("%q would cost %+v", encoded, p)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	for _, c := range []PasswordConfig{{}, {MemoryKiB: 47104, Iterations: 1}} {
		b.Run(fmt.Sprintf("m=%d,t=%d", c.MemoryKiB, c.Iterations), func(b *testing.B) {
			p, err := newPasswords(c)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if _, err := p.verify(b.Context(), "", "password"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
