//go:build !linux

package e2e_test

import "syscall"

// deathSignal is Linux's own: elsewhere a test that is killed leaves its
// processes.
func deathSignal() *syscall.SysProcAttr { return nil }
