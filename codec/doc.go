// Package codec is the binary form of what a client and a gate say to each
// other: packets, the messages in them, fragments of messages too large for one
// packet, and the dictionary that gives routes short codes.
//
// Decoding aliases its input and allocates nothing; encoding appends to a slice
// of the caller. Every malformed input ends in one of the errors of errors.go,
// and holds no more memory than its own size and the limit given.
//
// It refuses to do I/O, to keep time, to know what a session is or which side it
// is on, and to look into what a message carries. All numbers are big-endian.
package codec
