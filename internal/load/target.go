package load

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	asap "github.com/asap-protocol/asap-go"
)

// Target is a node that gets tasks, and who sends them.
type Target struct {
	URL       string // of the node
	Recipient asap.AgentURN
	Skill     string
	Sender    asap.AgentURN
	Header    http.Header // credentials and delegation; nil for none
	// OperatorToken lets the node's accounts be read.
	OperatorToken string
}

// NewSender names a sender that has sent nothing yet, so that what is recorded
// for it is what one run sent.
func NewSender() asap.AgentURN {
	var random [6]byte
	_, _ = rand.Read(random[:]) // never fails
	return asap.AgentURN("urn:asap:agent:bench-" + hex.EncodeToString(random[:]))
}

// Tasks returns what a [Plan] does to send tasks to the target, each with an
// envelope id of its own, and a function that ends the connections.
func (t *Target) Tasks(connections int) (do func(ctx context.Context, connection, i int) error, end func()) {
	header := http.Header{"Content-Type": {"application/json"}}
	for name, values := range t.Header {
		header[name] = values
	}
	poster := NewPoster(strings.TrimRight(t.URL, "/")+"/asap", connections, header)
	task, bodies := t.Task(), make([][]byte, connections)
	do = func(ctx context.Context, connection, i int) error {
		bodies[connection] = task(bodies[connection][:0], i)
		return poster.Post(ctx, bodies[connection], judge)
	}
	return do, poster.Close
}

// Task returns what appends the i-th task to a buffer, under an envelope id of
// its own.
func (t *Target) Task() func(b []byte, i int) []byte {
	ids := asap.NewIDSource()
	return func(b []byte, i int) []byte { return t.appendTask(b, ids.NewEnvelopeID(time.Now()), i) }
}

func (t *Target) appendTask(b []byte, id asap.EnvelopeID, i int) []byte {
	b = append(append(b, `{"jsonrpc":"2.0","id":1,"method":"asap.send","params":{"envelope":{"id":"`...), id...)
	b = append(append(b, `","asap_version":"0.1","sender":"`...), t.Sender...)
	b = append(append(b, `","recipient":"`...), t.Recipient...)
	b = append(append(b, `","payload_type":"task.request","payload":{"conversation_id":"bench","skill_id":"`...), t.Skill...)
	b = strconv.AppendInt(append(b, `","input":{"n":`...), int64(i), 10)
	return append(b, `,"text":"the quick brown fox jumps over the lazy dog"}}}}}`...)
}

// judge tells whether an answer says that the task is done. Of a refusal it
// tells the stable code.
func judge(answer []byte) error {
	if bytes.Contains(answer, []byte(`"status":"completed"`)) {
		return nil
	}
	var v struct {
		Error *struct {
			Code int `json:"code"`
			Data struct {
				Code string `json:"code"`
			} `json:"data"`
		} `json:"error"`
	}
	if err := json.Unmarshal(answer, &v); err != nil {
		return errors.New("an answer that is not JSON")
	}
	if v.Error == nil {
		return errors.New("the task is not completed")
	}
	return fmt.Errorf("refused: %s (%d)", v.Error.Data.Code, v.Error.Code)
}

// Accounts is what a node says of itself after a run.
type Accounts struct {
	// Recorded is how many tasks of the sender are in its usage.
	Recorded int64 `json:"recorded"`
	// AuditEntries is how many entries its audit log has, AuditValid whether the
	// whole of it verifies.
	AuditEntries int64 `json:"audit_entries"`
	AuditValid   bool  `json:"audit_valid"`
}

// ErrAccounts marks accounts that cannot be read.
var ErrAccounts = errors.New("the node's accounts cannot be read")

// Accounts asks the node what it has recorded, and to verify its audit log.
func (t *Target) Accounts(ctx context.Context) (Accounts, error) {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	get := func(path string, to any) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(t.URL, "/")+path, nil)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+t.OperatorToken)
		res, err := client.Do(req)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrAccounts, err)
		}
		defer res.Body.Close() //nolint:errcheck // only read
		body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswerBytes))
		if err == nil && res.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: HTTP %d", path, res.StatusCode)
		}
		if err == nil {
			err = json.Unmarshal(body, to)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrAccounts, err)
		}
		return nil
	}
	var usage struct {
		Total int64 `json:"total_tasks"`
	}
	if err := get("/usage/summary?consumer_id="+url.QueryEscape(string(t.Sender)), &usage); err != nil {
		return Accounts{}, err
	}
	var log struct {
		Valid   bool  `json:"valid"`
		Entries int64 `json:"entries_checked"`
	}
	if err := get("/audit/verify", &log); err != nil {
		return Accounts{}, err
	}
	return Accounts{usage.Total, log.Entries, log.Valid}, nil
}
