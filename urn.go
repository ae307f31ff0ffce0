package asap

import (
	"errors"
	"unicode/utf8"
)

// MaxURNLength is the longest agent URN accepted, in Unicode code points.
const MaxURNLength = 256

// AgentURN names an agent: urn:asap:agent:NAME or urn:asap:agent:NAME:PART,
// where NAME and PART are one or more of a-z, 0-9 and hyphen. A value that came
// out of [ParseAgentURN] is valid; a conversion from string is unchecked.
type AgentURN string

const agentURNPrefix = "urn:asap:agent:"

var (
	// ErrURNLength reports a URN of more than MaxURNLength code points.
	ErrURNLength = errors.New("agent URN is longer than 256 characters")
	// ErrURNSyntax reports a text that is not an agent URN.
	ErrURNSyntax = errors.New("agent URN must look like urn:asap:agent:name or urn:asap:agent:name:part (a-z, 0-9, hyphen)")
)

// ParseAgentURN checks s and returns it as a URN. The length is checked before
// the syntax. Unlike the Python release it refuses a trailing line feed.
func ParseAgentURN(s string) (AgentURN, error) {
	if len(s) > MaxURNLength && utf8.RuneCountInString(s) > MaxURNLength {
		return "", ErrURNLength
	}
	if len(s) <= len(agentURNPrefix) || s[:len(agentURNPrefix)] != agentURNPrefix {
		return "", ErrURNSyntax
	}
	segments, length := 1, 0
	for i := len(agentURNPrefix); i < len(s); i++ {
		switch c := s[i]; {
		case c == ':':
			if length == 0 || segments == 2 {
				return "", ErrURNSyntax
			}
			segments, length = segments+1, 0
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-':
			length++
		default:
			return "", ErrURNSyntax
		}
	}
	if length == 0 {
		return "", ErrURNSyntax
	}
	return AgentURN(s), nil
}

// String returns the URN as text.
func (u AgentURN) String() string { return string(u) }
