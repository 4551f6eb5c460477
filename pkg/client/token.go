package client

import (
	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/proto/authpb"
)

// tokenUse is what an answer means for the token of later connections.
type tokenUse uint8

const (
	tokenUnused tokenUse = iota
	tokenGiven           // the answer holds it
	tokenEnded
)

// tokenUseOf knows the two routes of the auth service that a connection's token
// comes from and goes with.
func tokenUseOf(route string) tokenUse {
	switch route {
	case "auth.login":
		return tokenGiven
	case "auth.logout":
		return tokenEnded
	}
	return tokenUnused
}

// useToken takes note of a successful answer. It belongs to the reader.
func (c *Client) useToken(use tokenUse, m *codec.Message) {
	if use == tokenEnded {
		c.SetToken("")
		return
	}
	var in authpb.LoginResponse
	if err := read(m.Data, m.Name, m.Body, &in); err == nil && in.GetToken() != "" {
		c.SetToken(in.GetToken()) // the caller hears of an answer that can not be read
	}
}
