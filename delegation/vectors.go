package delegation

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	asap "github.com/asap-protocol/asap-go"
)

// maxVectorLine is the longest line of a vector file; a case may hold a token
// beyond the limits.
const maxVectorLine = 1 << 20

type vectorWorld struct {
	World *struct {
		Keys  []keyEntry `json:"keys"`
		Roots []string   `json:"roots"`
	} `json:"world"`
}

type vectorCase struct {
	ID      string    `json:"id"`
	Token   string    `json:"token"`
	Caller  string    `json:"caller"`
	Action  string    `json:"action"`
	Now     int64     `json:"now"`
	Revoked []string  `json:"revoked"`
	Expect  string    `json:"expect"`
	Code    asap.Code `json:"code"`
	HTTP    int       `json:"http"`
}

// RunVectors judges the cases of a JSON lines file: a first line
// {"world": {"keys": […], "roots": […]}}, then one case a line. It prints every
// mismatch and a closing line "N passed, N failed" to w. The error is that of a
// file that cannot be read, not of a case that fails.
func RunVectors(r io.Reader, w io.Writer) (passed, failed int, err error) {
	var policy *Policy
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxVectorLine)
	for n := 1; lines.Scan(); n++ {
		line := lines.Bytes()
		if strings.TrimSpace(string(line)) == "" {
			continue
		}
		if policy == nil {
			if policy, err = readWorld(line); err != nil {
				return 0, 0, fmt.Errorf("vectors: line %d: %w", n, err)
			}
			continue
		}
		var c vectorCase
		if err := json.Unmarshal(line, &c); err != nil {
			return passed, failed, fmt.Errorf("vectors: line %d: %w", n, err)
		}
		if mismatch := c.judge(*policy); mismatch != "" {
			failed++
			if _, err := fmt.Fprintf(w, "%s: %s\n", c.ID, mismatch); err != nil {
				return passed, failed, err
			}
		} else {
			passed++
		}
	}
	if err := lines.Err(); err != nil {
		return passed, failed, fmt.Errorf("vectors: %w", err)
	}
	if policy == nil {
		return 0, 0, errors.New("vectors: no world in the first line")
	}
	_, err = fmt.Fprintf(w, "%d passed, %d failed\n", passed, failed)
	return passed, failed, err
}

func readWorld(line []byte) (*Policy, error) {
	var head vectorWorld
	if err := json.Unmarshal(line, &head); err != nil {
		return nil, err
	}
	if head.World == nil {
		return nil, errors.New("the first line holds no world")
	}
	ring, err := ringOf(head.World.Keys)
	if err != nil {
		return nil, err
	}
	return &Policy{Keys: ring, IsRoot: Roots(head.World.Roots...)}, nil
}

// Roots returns a predicate for [Policy.IsRoot] that holds for the agents named.
func Roots[S ~string](agents ...S) func(asap.AgentURN) bool {
	set := make(map[asap.AgentURN]struct{}, len(agents))
	for _, a := range agents {
		set[asap.AgentURN(a)] = struct{}{}
	}
	return func(a asap.AgentURN) bool {
		_, ok := set[a]
		return ok
	}
}

// judge returns how the verdict differs from what the case expects, or "".
func (c *vectorCase) judge(p Policy) string {
	revoked := NewRevocationSet()
	for _, text := range c.Revoked {
		if err := revoked.addText(text); err != nil {
			return err.Error()
		}
	}
	p.Revoked = revoked.Revoked
	_, err := Verify(c.Token, &p, Query{Caller: asap.AgentURN(c.Caller), Action: c.Action, Now: time.Unix(c.Now, 0)})
	if err == nil {
		if c.Expect == "allow" {
			return ""
		}
		return fmt.Sprintf("want %s %s, got allow", c.Expect, c.Code)
	}
	r := AsRefusal(err)
	if c.Expect == "deny" && (c.Code == "" || c.Code == r.Code) && (c.HTTP == 0 || c.HTTP == r.HTTP()) {
		return ""
	}
	return strings.TrimSpace(fmt.Sprintf("want %s %s", c.Expect, c.Code)) + fmt.Sprintf(", got deny %s (HTTP %d)", r.Error(), r.HTTP())
}
