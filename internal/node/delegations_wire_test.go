package node

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/audit"
	"github.com/asap-protocol/asap-go/client"
	"github.com/asap-protocol/asap-go/delegation"
	"github.com/asap-protocol/asap-go/internal/ledger"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// send is a request of asap.send as text; params are appended to its parameters.
func send(sender, kind, payload, params string) string {
	id := asap.NewIDSource().NewEnvelopeID(time.Now())
	return `{"jsonrpc":"2.0","id":1,"method":"asap.send","params":{"envelope":{"id":"` + string(id) + `","asap_version":"0.1","sender":"` + sender +
		`","recipient":"` + counterURN + `","payload_type":"` + kind + `","payload":` + payload + `}` + params + `}}`
}

const countOne = `{"conversation_id":"c","skill_id":"count","input":{"n":1}}`

// rpcCode is the stable code in a JSON-RPC answer; "" for a result.
func rpcCode(t testing.TB, answer []byte) (code string, number int) {
	t.Helper()
	var v struct {
		Error *struct {
			Code int `json:"code"`
			Data struct {
				Code string `json:"code"`
			} `json:"data"`
		} `json:"error"`
	}
	if err := json.Unmarshal(answer, &v); err != nil {
		t.Fatalf("%v: %s", err, answer)
	}
	if v.Error == nil {
		return "", 0
	}
	return v.Error.Data.Code, v.Error.Code
}

// Every public case is judged by a node as it is by package delegation: in the
// header where it can be sent there, and in the parameters.
func TestPublicCasesThroughTheNode(t *testing.T) {
	c := testConfig(t.TempDir())
	know(t, c.Data)
	more := asap.EncodePublicKey(asap.PublicKeyOf(agentKey(2)))
	if err := os.WriteFile(filepath.Join(c.Data, "keys", "b.worker-1.pub"), []byte(more), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Delegation.Roots = []string{agentA}
	c.Store = "memory:" // each case has a ledger of its own, as they share token ids
	c.Metering.Prices = []PriceConfig{{Agent: counterURN, List: jsontext.Value(`{"usd_per_task":"0.1","max_usd_per_task":"0.1"}`)}}
	clock := time.Unix(1_800_000_000, 0)
	file, err := os.Open("../../delegation/testdata/delegation-cases.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	cases := 0
	for lines.Scan() {
		var v struct {
			ID, Token, Caller, Action, Expect, Code string
			Revoked                                 []string
		}
		if err := json.Unmarshal(lines.Bytes(), &v, json.MatchCaseInsensitiveNames(true)); err != nil {
			t.Fatal(err)
		}
		if v.ID == "" {
			continue
		}
		cases++
		n, stop := startWith(t, c, Options{Agents: []*agent.Agent{counter(new(atomic.Int64))}, Now: func() time.Time { return clock }})
		for _, r := range v.Revoked {
			issuer, id, _ := strings.Cut(r, "|")
			if _, err := n.ledger.Revoke(t.Context(), ledger.Revocation{Issuer: asap.AgentURN(issuer), TokenID: id}); err != nil {
				t.Fatal(err)
			}
		}
		key, known := keyBytes()[asap.AgentURN(v.Caller)]
		if !known {
			key = 2
		}
		kind, payload := "task.request", countOne
		if v.Action == "data.read" {
			kind, payload = "state.query", `{"task_id":"none"}`
		}
		auth := []string{"Authorization", signedBearer(asap.AgentURN(v.Caller), key, c.URN, clock)}
		quoted, err := json.Marshal(v.Token)
		if err != nil {
			t.Fatal(err)
		}
		ways := map[string]func() []byte{"params": func() []byte {
			_, _, body := call(t, n, "", "POST", "/asap", send(v.Caller, kind, payload, `,"delegation":`+string(quoted)), auth...)
			return body
		}}
		if !strings.ContainsAny(v.Token, "\n\r") {
			ways["header"] = func() []byte {
				_, _, body := call(t, n, "", "POST", "/asap", send(v.Caller, kind, payload, ""), append(auth, "X-ASAP-Delegation-Token", v.Token)...)
				return body
			}
		}
		for way, do := range ways {
			body := do()
			code, number := rpcCode(t, body)
			if v.Expect == "allow" && strings.HasPrefix(code, "delegation_") || v.Expect == "deny" && (code != v.Code || number != asap.Code(v.Code).Info().RPC) {
				t.Errorf("%s (%s): want %s %s, got %s", v.ID, way, v.Expect, v.Code, body)
			}
		}
		stop()
	}
	if cases != 60 {
		t.Errorf("%d cases", cases)
	}
}

// Both transports carry a token, and nobody but its verified holder can use it.
func TestHowATokenTravels(t *testing.T) {
	var runs atomic.Int64
	n, _ := start(t, delegating(t), counter(&runs))
	now := time.Now()
	token, _ := chainOf(t, now, []string{"task.execute"}, limits{10, -1})
	other, _ := chainOf(t, now, []string{"data.read"}, limits{10, -1})
	b := []string{"Authorization", bearerOf(agentB, n.config.URN, now)}
	for name, c := range map[string]struct {
		header []string
		sender string
		params string
		code   string
	}{
		"header":          {append(b, "X-ASAP-Delegation-Token", token), agentB, "", ""},
		"parameter":       {b, agentB, `,"delegation":"` + token + `"`, ""},
		"null":            {b, agentB, `,"delegation":null`, ""},
		"two headers":     {append(b, "X-ASAP-Delegation-Token", token, "X-ASAP-Delegation-Token", token), agentB, "", "delegation_malformed"},
		"header and both": {append(b, "X-ASAP-Delegation-Token", token), agentB, `,"delegation":"` + token + `"`, "delegation_malformed"},
		"no text":         {b, agentB, `,"delegation":5`, "delegation_malformed"},
		"empty":           {append(b, "X-ASAP-Delegation-Token", ""), agentB, "", "delegation_malformed"},
		"too large":       {b, agentB, `,"delegation":"` + strings.Repeat("a", delegation.MaxTokenBytes+1) + `"`, "delegation_too_large"},
		"unverified":      {[]string{"X-ASAP-Delegation-Token", token}, agentB, "", "delegation_audience"},
		"another agent":   {[]string{"Authorization", bearerOf(agentC, n.config.URN, now), "X-ASAP-Delegation-Token", token}, agentC, "", "delegation_audience"},
		"another scope":   {append(b, "X-ASAP-Delegation-Token", other), agentB, "", "delegation_scope"},
	} {
		before := runs.Load()
		status, head, body := call(t, n, "", "POST", "/asap", send(c.sender, "task.request", countOne, c.params), c.header...)
		code, _ := rpcCode(t, body)
		if status != http.StatusOK || code != c.code {
			t.Errorf("%s: %d %q, want %q: %s", name, status, code, c.code, body)
		}
		if ran := runs.Load() - before; ran != 0 && c.code != "" {
			t.Errorf("%s: it ran", name)
		}
		if budget := head.Get("ASAP-Delegation-Budget"); (name == "header" || name == "parameter") != strings.HasPrefix(budget, "remaining-tasks=") {
			t.Errorf("%s: budget %q", name, budget)
		}
	}

	// On a connection the token of the upgrade holds for every message that brings
	// none of its own.
	dial := func(header http.Header) *websocket.Conn {
		t.Helper()
		header.Set("Authorization", b[1])
		conn, res, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(n.URL(), "http")+"/asap/ws", &websocket.DialOptions{HTTPHeader: header})
		if err != nil {
			t.Fatal(err, res)
		}
		t.Cleanup(func() { _ = conn.CloseNow() })
		return conn
	}
	ask := func(conn *websocket.Conn, params string) string {
		t.Helper()
		if err := conn.Write(t.Context(), websocket.MessageText, []byte(send(agentB, "task.request", countOne, params))); err != nil {
			t.Fatal(err)
		}
		_, answer, err := conn.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		code, _ := rpcCode(t, answer)
		return code
	}
	with := dial(http.Header{"X-Asap-Delegation-Token": {other}})
	without := dial(http.Header{})
	for _, c := range []struct {
		conn         *websocket.Conn
		params, code string
	}{
		{with, "", "delegation_scope"}, {with, `,"delegation":"` + token + `"`, ""}, {with, `,"delegation":null`, ""}, {with, "", "delegation_scope"},
		{without, "", ""}, {without, `,"delegation":"` + other + `"`, "delegation_scope"}, {without, `,"delegation":"x"`, "delegation_malformed"},
	} {
		if code := ask(c.conn, c.params); code != c.code {
			t.Errorf("over a connection, %.30q: %q, want %q", c.params, code, c.code)
		}
	}
}

// What may be done with a task follows its delegation: each action has a scope,
// and a task under a delegation is nobody's without one.
func TestScopesOfActions(t *testing.T) {
	a := agent.New(counterURN, "Counter")
	a.HandleLong("wait", func(ctx context.Context, t *agent.Task) (any, error) {
		if _, err := t.Snapshot(map[string]int{"at": 1}); err != nil {
			return nil, err
		}
		<-ctx.Done()
		return nil, ctx.Err()
	})
	a.Handle("pay", func(context.Context, *agent.Task) (any, error) { return nil, nil }, agent.Scopes("invoice.pay"))
	n, _ := start(t, delegating(t), a)
	now := time.Now()
	tokenFor := func(scopes ...string) string {
		token, _ := chainOf(t, now, scopes, limits{-1, -1})
		return token
	}
	auth := func(who asap.AgentURN, token string) []string {
		header := []string{"Authorization", bearerOf(who, n.config.URN, now)}
		if token != "" {
			header = append(header, "X-ASAP-Delegation-Token", token)
		}
		return header
	}
	begin := func(who asap.AgentURN, token string) string {
		t.Helper()
		_, _, body := call(t, n, "", "POST", "/asap", send(string(who), "task.request", `{"conversation_id":"c","skill_id":"wait","input":{}}`, ""), auth(who, token)...)
		var v struct {
			Result struct {
				Envelope struct {
					Payload struct {
						TaskID string `json:"task_id"`
					} `json:"payload"`
				} `json:"envelope"`
			} `json:"result"`
		}
		if err := json.Unmarshal(body, &v); err != nil || v.Result.Envelope.Payload.TaskID == "" {
			t.Fatalf("%v: %s", err, body)
		}
		return v.Result.Envelope.Payload.TaskID
	}
	try := func(who asap.AgentURN, token, kind, payload string) string {
		t.Helper()
		_, _, body := call(t, n, "", "POST", "/asap", send(string(who), kind, payload, ""), auth(who, token)...)
		code, _ := rpcCode(t, body)
		return code
	}
	all := tokenFor("task.execute", "task.cancel", "data.read", "data.write")
	run := tokenFor("task.execute")
	task := begin(agentB, run)
	query, cancel := `{"task_id":"`+task+`"}`, `{"task_id":"`+task+`","reason":"enough"}`
	restore := `{"task_id":"` + task + `","snapshot_id":"none"}`
	for _, c := range []struct {
		token, kind, payload, code string
	}{
		{run, "state.query", query, "delegation_scope"}, {run, "task.cancel", cancel, "delegation_scope"}, {run, "state.restore", restore, "delegation_scope"},
		{"", "state.query", query, "delegation_scope"}, {"", "task.cancel", cancel, "delegation_scope"},
		{tokenFor("data.read"), "state.query", query, ""}, {tokenFor("data.write"), "state.restore", restore, "snapshot_not_found"},
		{tokenFor("data.read"), "task.cancel", cancel, "delegation_scope"}, {all, "state.query", query, ""}, {all, "task.cancel", cancel, ""},
	} {
		if code := try(agentB, c.token, c.kind, c.payload); code != c.code {
			t.Errorf("%s with %.40q: %q, want %q", c.kind, c.token, code, c.code)
		}
	}
	// Whoever acts for a may read a's own tasks, and nobody else's.
	own := begin(agentA, "")
	theirs := begin(agentC, "")
	for id, code := range map[string]string{own: "", theirs: "task_not_found"} {
		if got := try(agentB, tokenFor("data.read"), "state.query", `{"task_id":"`+id+`"}`); got != code {
			t.Errorf("for a: %q, want %q", got, code)
		}
	}
	if got := try(agentB, "", "state.query", `{"task_id":"`+own+`"}`); got != "task_not_found" {
		t.Errorf("without a delegation: %q", got)
	}
	for id, who := range map[string]asap.AgentURN{own: agentA, theirs: agentC} {
		if got := try(who, "", "task.cancel", `{"task_id":"`+id+`","reason":"done"}`); got != "" {
			t.Errorf("%s cannot cancel its task: %s", who, got)
		}
	}
	// An agent's own scopes.
	pay := `{"conversation_id":"c","skill_id":"pay","input":{}}`
	for token, code := range map[string]string{run: "delegation_scope", tokenFor("task.execute", "invoice.pay"): "", tokenFor("*"): ""} {
		if got := try(agentB, token, "task.request", pay); got != code {
			t.Errorf("pay: %q, want %q", got, code)
		}
	}
}

// A handler sees what is left and passes a part of it on.
func TestHandlersDelegate(t *testing.T) {
	type seen struct {
		principal string
		left      int64
		token     string
	}
	results := make(chan seen, 1)
	lead := agent.New("urn:asap:agent:lead", "Lead")
	lead.Handle("share", func(ctx context.Context, t *agent.Task) (any, error) {
		left, err := t.Delegation().Budget(ctx)
		if err != nil {
			return nil, err
		}
		share := agent.Share{To: agentD, MaxTasks: new(int64(1000)), Final: true}
		token, err := t.Delegate(ctx, share)
		if err != nil {
			return nil, &agent.Failure{Code: "cannot_share", Message: err.Error()}
		}
		results <- seen{string(t.Delegation().Principal()), *left.RemainingTasks, token}
		return nil, nil
	})
	c := delegating(t)
	dir := t.TempDir()
	pem, err := asap.EncodePrivateKeyPEM(keyOf(agentC))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "c.pem"), pem, 0o600); err != nil {
		t.Fatal(err)
	}
	c.Delegation.Keys = agentC + "=" + filepath.Join(dir, "c.pem")
	n, _ := start(t, c, lead, counter(new(atomic.Int64)))
	token, ids := chainOf(t, time.Now(), []string{"task.execute"}, limits{8, -1}, limits{3, -1})
	_, err = as(t, n.URL(), c.URN, agentC, token).Task(t.Context(), client.TaskCall{Recipient: "urn:asap:agent:lead", Skill: "share"})
	if err != nil {
		t.Fatal(err)
	}
	got := <-results
	if got.principal != agentA || got.left != 2 {
		t.Errorf("the handler saw %+v", got)
	}
	chain, err := delegation.Parse(got.token)
	if err != nil || len(chain.Links()) != 3 || chain.Actor() != agentD || *chain.Leaf().LimitTasks != 3 || chain.Leaf().Issuer != agentC {
		t.Fatalf("%+v, %v", chain, err)
	}
	// The share counts on every link above, and cannot be passed on.
	if _, err := as(t, n.URL(), c.URN, agentD, got.token).Task(t.Context(), client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(`{"n":1}`)}); err != nil {
		t.Error(err)
	}
	if s := standingOf(t, n, ids[1]); s.Tasks.Used != 2 {
		t.Errorf("%+v", s)
	}
	entries, _, err := n.store.ListAudit(t.Context(), audit.Filter{Type: audit.DelegationCreated}, 0, 10)
	if err != nil || len(entries) != 1 || entries[0].Actor != agentC {
		t.Errorf("%+v, %v", entries, err)
	}
	// For b nobody gave the node a key.
	one, _ := chainOf(t, time.Now(), []string{"task.execute"}, limits{8, -1})
	result, err := as(t, n.URL(), c.URN, agentB, one).Task(t.Context(), client.TaskCall{Recipient: "urn:asap:agent:lead", Skill: "share"})
	if err == nil && result.Status != asap.Failed {
		t.Errorf("%+v", result)
	}
}

// Tokens over REST: made, passed on, seen by those they concern, revoked by those
// who may.
func TestDelegationsOverREST(t *testing.T) {
	c := delegating(t)
	dir := t.TempDir()
	for _, urn := range []asap.AgentURN{agentA, agentB, agentC} {
		pem, err := asap.EncodePrivateKeyPEM(keyOf(urn))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, strings.TrimPrefix(string(urn), "urn:asap:agent:")+".key"), pem, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	c.Delegation.Keys, c.Delegation.Roots = dir, []string{agentA}
	n, _ := start(t, c, counter(new(atomic.Int64)))
	type created struct {
		Token string `json:"token"`
		ID    string `json:"id"`
	}
	make := func(who, body string, want int) (v created, code string) {
		t.Helper()
		status, head, answer := call(t, n, who, "POST", "/delegations", body)
		if status != want {
			t.Fatalf("%s as %s: %d %s", body, who, status, answer)
		}
		if status == http.StatusCreated {
			v = decode[created](t, answer)
			if head.Get("Location") != "/delegations/"+v.ID {
				t.Errorf("Location %q", head.Get("Location"))
			}
			return v, ""
		}
		return v, decode[struct {
			Code string `json:"code"`
		}](t, answer).Code
	}
	root, _ := make(agentA, `{"delegate":"`+agentB+`","scopes":["task.execute","data.read"],"max_tasks":5,"max_cost_usd":1.5}`, 201)
	child, _ := make(agentB, `{"delegate":"`+agentC+`","scopes":["task.execute"],"max_tasks":3,"parent":"`+root.Token+`"}`, 201)
	clamped, _ := make(agentB, `{"delegate":"`+agentC+`","scopes":["*"],"max_tasks":30,"expires_in_seconds":31536000,"parent":"`+root.Token+`","clamp":true}`, 201)
	for _, bad := range []struct {
		who, body string
		status    int
		code      asap.Code
	}{
		{agentB, `{"delegate":"` + agentC + `","scopes":["task.execute"],"max_tasks":6,"parent":"` + root.Token + `"}`, 403, asap.CodeDelegationEscalation},
		{agentB, `{"delegate":"` + agentC + `","scopes":["task.execute"]}`, 403, asap.CodeDelegationRootUntrusted},
		{agentC, `{"delegate":"` + agentD + `","scopes":["task.execute"],"parent":"` + root.Token + `"}`, 403, asap.CodeDelegationAudience},
		{agentD, `{"delegate":"` + agentC + `","scopes":["task.execute"]}`, 503, asap.CodeDelegationNoKey},
		{agentB, `{"delegate":"` + agentC + `","scopes":["task.execute"],"parent":"x"}`, 400, asap.CodeDelegationMalformed},
		{agentA, `{"delegate":"` + agentC + `","scopes":[]}`, 422, asap.CodeValidation},
		{agentA, `{"delegate":"` + agentC + `","scopes":["x"],"colour":1}`, 422, asap.CodeValidation},
		{"operator", `{"delegate":"` + agentC + `","scopes":["x"]}`, 403, asap.CodeForbidden},
		{"", `{"delegate":"` + agentC + `","scopes":["x"]}`, 401, asap.CodeUnauthenticated},
	} {
		if _, code := make(bad.who, bad.body, bad.status); code != string(bad.code) {
			t.Errorf("%s: %s, want %s", bad.body, code, bad.code)
		}
	}
	count := func(who, query string) int {
		t.Helper()
		_, _, body := call(t, n, who, "GET", "/delegations"+query, "")
		return decode[struct {
			Count int `json:"count"`
		}](t, body).Count
	}
	for query, want := range map[string]int{"": 3, "?role=held": 1, "?role=issued": 2, "?limit=1": 1, "?active=true": 3} {
		if got := count(agentB, query); got != want {
			t.Errorf("list%s: %d, want %d", query, got, want)
		}
	}
	if got := count("operator", ""); got != 3 {
		t.Errorf("the operator sees %d", got)
	}
	// Those it concerns see it, others do not.
	for who, want := range map[string]int{agentA: 200, agentB: 200, agentC: 200, agentD: 403, "operator": 200} {
		for _, part := range []string{"", "/chain", "/usage"} {
			if status, _, body := call(t, n, who, "GET", "/delegations/"+child.ID+part, ""); status != want {
				t.Errorf("%s%s as %s: %d %s", child.ID, part, who, status, body)
			}
		}
	}
	_, _, chain := call(t, n, agentC, "GET", "/delegations/"+child.ID+"/chain", "")
	if !bytes.Contains(chain, []byte(root.ID)) || bytes.Index(chain, []byte(`"depth":0`)) > bytes.Index(chain, []byte(`"depth":1`)) {
		t.Errorf("%s", chain)
	}
	// Judged without being used.
	verdict := func(token, caller string) string {
		_, _, body := call(t, n, "operator", "POST", "/delegations/verify", `{"token":"`+token+`","caller":"`+caller+`"}`)
		return string(body)
	}
	if v := verdict(child.Token, agentC); v != `{"allow":true}` {
		t.Error(v)
	}
	if v := verdict(child.Token, agentB); !strings.Contains(v, `"allow":false,"code":"delegation_audience","link":1,"http":403`) {
		t.Error(v)
	}
	// A stranger cannot revoke; an issuer can revoke what was never seen; the root
	// ends everything below.
	if status, _, _ := call(t, n, agentD, "DELETE", "/delegations/"+child.ID, ""); status != 403 {
		t.Errorf("a stranger: %d", status)
	}
	if status, _, _ := call(t, n, agentD, "DELETE", "/delegations/"+child.ID+"?issuer="+agentB, ""); status != 403 {
		t.Errorf("a stranger: %d", status)
	}
	if status, _, _ := call(t, n, "operator", "DELETE", "/delegations/del_never_seen", ""); status != 404 {
		t.Errorf("the operator, no issuer: %d", status)
	}
	for _, unseen := range []string{"/delegations/del_never_seen", "/delegations/del_other?issuer=" + agentA} {
		if status, _, body := call(t, n, agentA, "DELETE", unseen, ""); status != 204 {
			t.Errorf("%s: %d %s", unseen, status, body)
		}
	}
	if status, _, body := call(t, n, agentA, "DELETE", "/delegations/"+root.ID, ""); status != 204 {
		t.Fatalf("%d %s", status, body)
	}
	for _, token := range []string{root.Token, child.Token, clamped.Token} {
		holder := agentC
		if token == root.Token {
			holder = agentB
		}
		if v := verdict(token, holder); !strings.Contains(v, "delegation_revoked") {
			t.Error(v)
		}
	}
	if got := count(agentB, "?active=true"); got != 0 {
		t.Errorf("%d are active", got)
	}
	// Offline, b passes a part on; its ancestor proves with the token that it may
	// end it.
	offline, ids := chainOf(t, time.Now(), []string{"*"}, limits{-1, -1}, limits{-1, -1})
	path := "/delegations/" + ids[1] + "?issuer=" + agentB
	if status, _, _ := call(t, n, agentA, "DELETE", path, ""); status != 403 {
		t.Errorf("an ancestor without the token: %d", status)
	}
	if status, _, body := call(t, n, agentA, "DELETE", path, "", "X-ASAP-Delegation-Token", offline); status != 204 {
		t.Errorf("an ancestor with the token: %d %s", status, body)
	}
	if v := verdict(offline, agentC); !strings.Contains(v, `"delegation_revoked","link":1`) {
		t.Error(v)
	}
}

// A key that its agent withdraws signs nothing any more.
func TestWithdrawnKeys(t *testing.T) {
	n, _ := start(t, delegating(t), counter(new(atomic.Int64)))
	token, _ := chainOf(t, time.Now(), []string{"*"}, limits{-1, -1}, limits{-1, -1})
	task := func() string {
		_, err := as(t, n.URL(), n.config.URN, agentC, token).Task(t.Context(), client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(`{"n":1}`)})
		return codeOf(err)
	}
	if code := task(); code != "" {
		t.Fatal(code)
	}
	print := "key:" + delegation.Thumbprint(asap.PublicKeyOf(keyOf(agentB)))
	if status, _, body := call(t, n, agentC, "DELETE", "/delegations/"+print+"?issuer="+agentB, ""); status != 403 {
		t.Errorf("another's key: %d %s", status, body)
	}
	if status, _, body := call(t, n, agentB, "DELETE", "/delegations/"+print, ""); status != 204 {
		t.Fatalf("%d %s", status, body)
	}
	if code := task(); code != string(asap.CodeDelegationUnknownIssuer) {
		t.Errorf("with the key withdrawn: %q", code)
	}
}

// Keys that the operator takes away count no more once they are read again.
func TestKeysTakenAway(t *testing.T) {
	c := delegating(t)
	n, _ := start(t, c, counter(new(atomic.Int64)))
	token, _ := chainOf(t, time.Now(), []string{"*"}, limits{-1, -1}, limits{-1, -1})
	caller := as(t, n.URL(), n.config.URN, agentC, token)
	for _, want := range []string{"", string(asap.CodeDelegationUnknownIssuer)} {
		_, err := caller.Task(t.Context(), client.TaskCall{Recipient: counterURN, Skill: "count", Input: jsontext.Value(`{"n":1}`)})
		if code := codeOf(err); code != want {
			t.Errorf("%q, want %q", code, want)
		}
		if err := os.RemoveAll(filepath.Join(c.Data, "keys", "b.pub")); err != nil {
			t.Fatal(err)
		}
		n.Reload(t.Context(), c, nil)
	}
}

// One that is bound to a key is good with proof of possession alone.
func TestProofOfPossession(t *testing.T) {
	n, _ := start(t, delegating(t), counter(new(atomic.Int64)))
	now := time.Now()
	terms := delegation.Terms{Issuer: agentA, Delegate: agentB, TokenID: "del_bound", IssuedAt: now, ExpiresAt: now.Add(time.Hour), Scopes: []string{"*"},
		ConfirmJKT: delegation.Thumbprint(asap.PublicKeyOf(keyOf(agentB)))}
	token, err := delegation.Issue(terms, keyOf(agentA))
	if err != nil {
		t.Fatal(err)
	}
	body := send(agentB, "task.request", countOne, "")
	ask := func(more ...string) string {
		t.Helper()
		_, _, answer := call(t, n, agentB, "POST", "/asap", body, append([]string{"X-ASAP-Delegation-Token", token}, more...)...)
		code, _ := rpcCode(t, answer)
		return code
	}
	if code := ask(); code != string(asap.CodeDelegationProofRequired) {
		t.Errorf("without: %q", code)
	}
	proof := proofHeaders(t, n, token, body, now)
	if code := ask(proof...); code != "" {
		t.Errorf("with: %q", code)
	}
	if code := ask(proof...); code != string(asap.CodeDelegationProofInvalid) {
		t.Errorf("again: %q", code)
	}
}

// proofHeaders signs a request to POST /asap as b.
func proofHeaders(t testing.TB, n *Node, token, body string, now time.Time) []string {
	t.Helper()
	head := http.Header{"X-Asap-Delegation-Token": {token}, "Content-Digest": {delegation.ContentDigest([]byte(body))}}
	r := &delegation.Request{Method: "POST", TargetURI: n.URL() + "/asap", Header: head.Values, Body: []byte(body)}
	input, signature, err := delegation.SignProof(r, delegation.ProofTerms{Created: now, Nonce: "n-1"}, keyOf(agentB))
	if err != nil {
		t.Fatal(err)
	}
	return []string{"Content-Digest", head.Get("Content-Digest"), "Signature-Input", input, "Signature", signature}
}

// Nonces are kept for their time, and a memory that is full judges no more.
func TestNonceMemoryIsBounded(t *testing.T) {
	now := time.Unix(1000, 0)
	m := &nonceMemory{now: func() time.Time { return now }}
	for i := range maxNonces {
		if fresh, err := m.remember("k", fmt.Sprint(i), now.Add(time.Minute)); !fresh || err != nil {
			t.Fatal(i, fresh, err)
		}
	}
	if fresh, err := m.remember("k", "0", now.Add(time.Minute)); fresh || err != nil {
		t.Error("a repetition:", fresh, err)
	}
	if _, err := m.remember("k", "one more", now.Add(time.Minute)); err == nil {
		t.Error("it has no bound")
	}
	now = now.Add(time.Minute)
	if fresh, err := m.remember("k", "0", now.Add(time.Minute)); !fresh || err != nil {
		t.Error("after its time:", fresh, err)
	}
}
