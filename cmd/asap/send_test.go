package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/coder/websocket"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/rogpeppe/go-internal/testscript"
)

// TestSendScripts runs testdata/send/*.txtar against a small agent in this
// process: its address is in $AGENT. Nothing listens at $NOBODY.
func TestSendScripts(t *testing.T) {
	server := httptest.NewServer(&fakeAgent{t: t, polls: map[string]int{}})
	t.Cleanup(server.Close) // the scripts run in parallel, after this function
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/send",
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("AGENT", server.URL)
			env.Setenv("NOBODY", gone.URL)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"status": scriptStatus},
	})
}

const fakeManifest = `{"id":"urn:asap:agent:fake","name":"Fake","version":"1.0.0","description":"d","capabilities":{},"endpoints":{"asap":"http://127.0.0.1/asap"}}`

// fakeAgent has the skills echo, long (done when asked for the second time),
// fail, ask (waits for input), headers (tells the headers it was called with),
// and refuses all others.
type fakeAgent struct {
	t     *testing.T
	mu    sync.Mutex // guards what follows
	polls map[string]int
}

func (f *fakeAgent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/.well-known/asap/manifest.json":
		_, _ = io.WriteString(w, fakeManifest)
	case "/asap":
		b, err := io.ReadAll(r.Body)
		if err != nil {
			f.t.Error(err)
		}
		_, _ = w.Write(f.answer(r, b))
	case "/asap/ws":
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			f.t.Error(err)
			return
		}
		defer conn.CloseNow()
		for {
			_, b, err := conn.Read(r.Context())
			if err != nil {
				return
			}
			if err := conn.Write(r.Context(), websocket.MessageText, f.answer(r, b)); err != nil {
				return
			}
		}
	default:
		http.NotFound(w, r)
	}
}

func (f *fakeAgent) answer(r *http.Request, body []byte) []byte {
	request, refusal := asap.ParseRPCRequest(body)
	if refusal != nil {
		f.t.Errorf("request %s: %v", body, refusal)
		return nil
	}
	e, refusal := request.Envelope()
	if refusal != nil {
		f.t.Errorf("envelope %s: %v", body, refusal)
		return nil
	}
	response := asap.TaskResponse{TaskID: "task_1", Status: asap.Completed}
	extensions := `{"asap-receipt":{"seq":7,"id":"evt_1","hash":"` + strings.Repeat("ab", 32) + `"}}`
	task := &asap.TaskRequest{}
	if e.PayloadType == asap.TaskRequestType {
		var err error
		if task, err = asap.ParseTaskRequest(e.Payload); err != nil {
			f.t.Error(err)
		}
	} else {
		f.mu.Lock()
		f.polls[string(e.Sender)]++
		if f.polls[string(e.Sender)]%2 == 1 {
			response.Status = asap.Working
		}
		f.mu.Unlock()
		response.Result = jsontext.Value(`{"waited":true}`)
	}
	switch task.SkillID {
	case "", "echo":
		if task.SkillID == "echo" {
			response.Result = jsontext.Value(`{"echoed":` + string(task.Input) + `}`)
		}
	case "long":
		response.Status, extensions = asap.Working, ""
	case "fail":
		response.Status = asap.Failed
	case "ask":
		response.Status = asap.InputRequired
	case "headers":
		bearer := strings.Split(r.Header.Get("Authorization"), ".")
		result, _ := jsontext.AppendQuote([]byte(`{"bearer":`), bearer[0])
		result, _ = jsontext.AppendQuote(append(result, `,"delegation":`...), r.Header.Get("X-ASAP-Delegation-Token"))
		result, _ = jsontext.AppendQuote(append(result, `,"from":`...), string(e.Sender)+" to "+string(e.Recipient)+" \u0085")
		response.Result = append(result, '}')
	default:
		return asap.AppendRPCError(nil, request.ID, asap.CodeSkillUnknown.Err("no\x1b[31m such skill").RPC())
	}
	answer := e.Answer("answer", time.Now(), "urn:asap:agent:fake", asap.TaskResponseType, response.AppendJSON(nil))
	if extensions != "" {
		answer.Extensions = jsontext.Value(extensions)
	}
	return asap.AppendRPCResult(nil, request.ID, answer)
}
