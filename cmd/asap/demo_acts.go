package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/client"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

func (d *demo) actAgents(context.Context) error {
	d.begin("Three agents")
	d.say("The library answers questions and charges for them: 1 cent each, and for the tokens it reads and writes.")
	d.say("The orchestrator has the money. The researcher does the work, and has a bug, as we shall see.")
	d.say("Each has a key of its own and proves with it who it is. A node stands in front of the library: what it")
	d.say("lets through it measures, prices and writes into a log, before the answer leaves.")
	d.act.Figures["price"] = jsontext.Value(demoPrices)
	return nil
}

func (d *demo) actBudget(ctx context.Context) error {
	d.begin("A budget")
	d.say("The orchestrator signs a delegation for the researcher, on its own machine, asking nobody:")
	g, err := d.grant("loop", demoLoopTasks, new(int64(demoLoopNanoUSD)))
	if err != nil {
		return err
	}
	d.row("the researcher may", "have questions answered on the orchestrator's account")
	d.row("at most", "%d tasks", g.tasks)
	d.row("and at most", "%s USD", usd(*g.nanoUSD))
	d.row("for", "one hour")
	thief, err := d.caller(stranger, g.token)
	if err != nil {
		return err
	}
	_, refusal, err := d.ask(ctx, thief, question(demoSkillAnswer, 1), g.id)
	if err != nil {
		return err
	}
	if refusal == nil {
		return refusedErrorf("a stranger could use the researcher's delegation")
	}
	d.keep(nil, refusal)
	d.say("A stranger who has copied it gets nothing for it: refused, %s.", refusal.code)
	d.act.Figures["max_tasks"], d.act.Figures["max_cost_usd"], d.act.Figures["stranger"] = g.tasks, usd(*g.nanoUSD), refusal.code
	return nil
}

func (d *demo) actLoop(ctx context.Context) error {
	d.begin("A loop")
	d.say("The researcher asks, and asks, and asks: nothing in it would ever stop.")
	d.say("  question   tokens in   tokens out    costs USD   used so far USD")
	g := d.grants["loop"]
	c, err := d.caller(researcher, g.token)
	if err != nil {
		return err
	}
	ids := asap.NewIDSource()
	var spent int64
	var held string // lines that are told if they turn out to be the last
	var first *demoAnswer
	for n := int64(1); ; n++ {
		call := question(demoSkillAnswer, n)
		call.Timestamp = time.Now()
		call.EnvelopeID = ids.NewEnvelopeID(call.Timestamp)
		answer, refusal, err := d.ask(ctx, c, call, g.id)
		if err != nil {
			return err
		}
		if !d.keep(answer, refusal) {
			if held != "" {
				d.say("       ...")
				d.say("%s", held)
			}
			d.say("Question %d is refused before it runs (%s): it may cost up to %s USD, more than is left.", n, refusal.code, usd(demoMostNanoUSD))
			d.act.Figures["refused"], d.act.Figures["code"] = n, refusal.code
			break
		}
		if first == nil {
			first = answer
		}
		u, err := d.used(ctx, g)
		if err != nil {
			return err
		}
		line := fmt.Sprintf("  %8d   %9d   %10d   %10s   %15s", n, answer.tokensIn, answer.tokensOut, usd(u.nanoUSD-spent), usd(u.nanoUSD))
		spent = u.nanoUSD
		if n <= 3 {
			d.say("%s", line)
		} else {
			held = line
		}
		if n > demoLoopTasks {
			return refusedErrorf("nothing stopped the loop")
		}
	}
	again, refusal, err := d.ask(ctx, c, first.call, g.id)
	if err != nil {
		return err
	}
	if refusal != nil {
		return refusedErrorf("the repeated request was refused: %s", refusal.code)
	}
	d.repeated = again
	u, err := d.used(ctx, g)
	if err != nil {
		return err
	}
	d.say("Request 1 is sent again, as after a lost connection: same answer, same receipt, and %s USD more to pay.", usd(u.nanoUSD-spent))
	d.act.Figures["used_usd"], d.act.Figures["limit_usd"], d.act.Figures["repeated_usd"] = usd(u.nanoUSD), usd(demoLoopNanoUSD), usd(u.nanoUSD-spent)
	return nil
}

// together asks the same question n times, at most parallel of them at a time, and
// keeps what came of them.
func (d *demo) together(ctx context.Context, c *client.Client, skill, grant string, n, parallel int) (answers int, err error) {
	type outcome struct {
		answer  *demoAnswer
		refusal *demoRefusal
		err     error
	}
	outcomes := make([]outcome, n)
	slots := make(chan struct{}, parallel)
	var all sync.WaitGroup
	for i := range outcomes {
		slots <- struct{}{}
		all.Go(func() {
			o := &outcomes[i]
			o.answer, o.refusal, o.err = d.ask(ctx, c, question(skill, 1), grant)
			<-slots
		})
	}
	all.Wait()
	for _, o := range outcomes {
		if o.err != nil {
			return answers, o.err
		}
		if d.keep(o.answer, o.refusal) {
			answers++
		}
	}
	return answers, nil
}

func (d *demo) actRace(ctx context.Context) error {
	d.begin("A race")
	g, err := d.grant("race", demoRaceTasks, nil)
	if err != nil {
		return err
	}
	c, err := d.caller(researcher, g.token)
	if err != nil {
		return err
	}
	d.say("A second delegation is for %d tasks. The researcher sends %d requests at the same moment.", g.tasks, demoRaceRequests)
	ran, err := d.together(ctx, c, demoSkillAnswer, g.id, demoRaceRequests, demoRaceRequests)
	if err != nil {
		return err
	}
	d.row("ran", "%3d", ran)
	d.row("refused", "%3d", demoRaceRequests-ran)
	d.say("Not one more: a place is reserved before a task starts, in the same durable step as its entry in the log.")
	d.act.Figures["ran"], d.act.Figures["refused"] = ran, demoRaceRequests-ran
	return nil
}

func (d *demo) actSlow(ctx context.Context) (err error) {
	d.begin("A promise")
	d.say("The library promises that 95 of 100 answers take at most %d ms. The node measures every one of them.", demoPromiseMS)
	d.say("The orchestrator listens on a WebSocket, and is told when the promise is broken and when it is kept again.")
	c, err := d.caller(orchestrator, "")
	if err != nil {
		return err
	}
	news, listening, err := d.listen(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, listening.Close()) }()

	if _, err := d.together(ctx, c, demoSkillHours, "", demoQuickBefore, demoParallelQuick); err != nil {
		return err
	}
	d.row("quick answers", "%3d     the promise is kept", demoQuickBefore)
	d.slow.Store(true)
	if _, err := d.together(ctx, c, demoSkillHours, "", demoSlow, demoSlow); err != nil {
		return err
	}
	d.slow.Store(false)
	opened, err := d.await(ctx, news, "firing")
	if err != nil {
		return err
	}
	d.row("answers of 2,200 ms", "%3d     BROKEN: more than 5 of 100 were slow; a breach is open", demoSlow)
	if _, err := d.together(ctx, c, demoSkillHours, "", demoQuickAfter, demoParallelQuick); err != nil {
		return err
	}
	ended, err := d.await(ctx, news, "resolved")
	if err != nil {
		return err
	}
	if opened.Breach.ID != ended.Breach.ID {
		return refusedErrorf("the breach that ended is not the one that opened")
	}
	d.row("quick answers", "%3d     kept again; the breach is closed under the id it was opened with", demoQuickAfter)
	d.say("The answers and their times are real. For the demo's sake a breach ends when the promise has been kept")
	d.say("for one second; a node waits for five minutes unless its operator says otherwise.")
	d.act.Figures["promised_ms"], d.act.Figures["slow"], d.act.Figures["breach"] = demoPromiseMS, demoSlow, opened.Breach.ID
	return nil
}

// listen subscribes the orchestrator to what happens to the library's promise.
func (d *demo) listen(ctx context.Context) (<-chan demoNews, *client.Socket, error) {
	news := make(chan demoNews, 64)
	options, err := d.identity(orchestrator)
	if err != nil {
		return nil, nil, err
	}
	socket, err := client.NewSocket(d.node.URL(), append(options, client.WithHandlers(client.Handlers{
		Notification: func(_ context.Context, _ string, params jsontext.Value) {
			var n demoNews
			if json.Unmarshal(params, &n) != nil {
				return // no news of a breach
			}
			select {
			case news <- n:
			default: // there are not as many in the whole story
			}
		},
	}))...)
	if err != nil {
		return nil, nil, err
	}
	if err := socket.Connect(ctx); err != nil {
		return nil, nil, stateErrorf("listen to the node: %w", err)
	}
	if _, err := socket.SubscribeSLA(ctx, jsonText("agents", `["`+string(library)+`"]`)); err != nil {
		return nil, nil, errors.Join(stateErrorf("listen to the node: %w", err), socket.Close())
	}
	return news, socket, nil
}

// await waits for an event of that kind.
func (d *demo) await(ctx context.Context, news <-chan demoNews, kind string) (demoNews, error) {
	ctx, cancel := context.WithTimeout(ctx, demoPatience)
	defer cancel()
	for {
		select {
		case n := <-news:
			d.told = append(d.told, n)
			if n.Event == kind {
				return n, nil
			}
		case <-ctx.Done():
			return demoNews{}, stateErrorf("the node did not tell within %s that a breach is %s", demoPatience, kind)
		}
	}
}

func (d *demo) actRevoke(ctx context.Context) (err error) {
	d.begin("A change of mind")
	g, err := d.grant("revoked", demoRevokeTasks, nil)
	if err != nil {
		return err
	}
	c, err := d.caller(researcher, g.token)
	if err != nil {
		return err
	}
	d.say("A third delegation is for %d tasks. After %d of them the orchestrator takes it back.", g.tasks, demoBeforeRevoke)
	before, err := d.together(ctx, c, demoSkillAnswer, g.id, demoBeforeRevoke, 1)
	if err != nil {
		return err
	}
	n, err := d.as(ctx, orchestrator)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	res, err := n.do(ctx, http.MethodDelete, "/delegations/"+g.id, nil, "", nil)
	if err != nil {
		return err
	}
	res.Body.Close()
	after, err := d.together(ctx, c, demoSkillAnswer, g.id, demoAfterRevoke, 1)
	if err != nil {
		return err
	}
	d.row("ran before", "%3d", before)
	d.row("ran after", "%3d     the next %d requests were refused: %s", after, demoAfterRevoke, d.refused[len(d.refused)-1].code)
	d.say("From the moment the node has answered the revocation, no task starts under it any more.")
	d.act.Figures["ran_before"], d.act.Figures["ran_after"], d.act.Figures["code"] = before, after, d.refused[len(d.refused)-1].code
	return nil
}

// limited tells whether a code says that a limit is used up.
func limited(code asap.Code) bool {
	return code == asap.CodeDelegationLimitTasks || code == asap.CodeDelegationLimitCost || code == asap.CodeDelegationLimitHeld
}
