package codec

// Capacity is how many bytes the Decoder keeps from the garbage collector.
func (d *Decoder) Capacity() int { return cap(d.partial) }

// Capacity is how many bytes the Assembler keeps from the garbage collector.
func (a *Assembler) Capacity() int {
	if a.state == nil {
		return 0
	}
	return cap(a.state.message)
}

// Idle says whether the Assembler holds nothing at all.
func (a *Assembler) Idle() bool { return a.state == nil }
