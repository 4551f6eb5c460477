package e2e_test

import "syscall"

// deathSignal has the kernel end a process whose test was killed.
func deathSignal() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
