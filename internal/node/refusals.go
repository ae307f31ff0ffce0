package node

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/asap-protocol/asap-go/agent"
	"github.com/asap-protocol/asap-go/audit"
)

// refusalDetails are those of a task.refused entry.
type refusalDetails struct {
	Agent    string `json:"agent"`
	Code     string `json:"code"`
	Consumer string `json:"consumer"`
	Skill    string `json:"skill_id"`
}

// recordRefusalWithin is how long a refusal waits for its entry at most.
const recordRefusalWithin = 5 * time.Second

// recordRefusal writes the task.refused entry of a refused task, if the
// configuration asks for it. It changes nothing else: a refusal uses no budget. A
// refusal that could not be recorded is logged, and stays one.
func (n *Node) recordRefusal(ctx context.Context, r agent.RefusedTask) {
	if !n.auditKeep.Load().Refusals {
		return
	}
	details, err := json.Marshal(refusalDetails{string(r.Agent), string(r.Code), string(r.Consumer), r.Skill}, json.Deterministic(true))
	if err == nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordRefusalWithin)
		defer cancel()
		parties := []string{string(r.Agent), string(r.Consumer)}
		slices.Sort(parties)
		_, err = n.ledger.Append(ctx, audit.Event{Type: audit.TaskRefused, Actor: string(r.Consumer), Subject: cmp.Or(string(r.EnvelopeID), "-"),
			Parties: slices.Compact(parties), Details: details})
	}
	if err != nil {
		n.log.ErrorContext(ctx, "refused task not recorded in the audit log", "consumer", r.Consumer, "code", r.Code, "error", err)
	}
}
