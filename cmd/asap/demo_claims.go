package main

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/asap-protocol/asap-go/audit"
)

// demoClaim is one claim of the story, computed again from what is on disk.
type demoClaim struct {
	Name   string `json:"name"`
	Claim  string `json:"claim"`
	Found  string `json:"found"`
	Passed bool   `json:"passed"`
}

// check computes every claim again: from the exported log, which the public key
// proves, and from what the callers themselves got; from the node's own totals
// only where the claim is about those.
func (d *demo) check() error {
	b := d.books
	verified, err := d.verifyDemoExport(demoExport)
	if err != nil {
		return err
	}
	claim := func(name, text string, passed bool, found string, args ...any) {
		d.report.Claims = append(d.report.Claims, demoClaim{name, text, fmt.Sprintf(found, args...), passed})
	}
	claim("log-whole", "the exported log is whole and signed, by the public key alone",
		verified.Valid && verified.Assurance == string(audit.Sealed) && verified.UnsealedTail == 0 && verified.Size == int64(len(b.log)),
		"%s, tail %d", verified.Assurance, verified.UnsealedTail)

	receipts, tasks := 0, map[string]bool{}
	for _, a := range d.answered {
		tasks[string(a.task)] = true
		if r := a.receipt; r != nil && r.Seq >= 0 && r.Seq < int64(len(b.log)) {
			if e := b.log[r.Seq]; e.ID == r.EntryID && e.Hash == hex.EncodeToString(r.Hash[:]) && e.Subject == string(a.task) {
				receipts++
			}
		}
	}
	claim("receipts", "every answer came with a receipt, and its entry is in the log", receipts == len(d.answered), "%d of %d", receipts, len(d.answered))

	recorded, recordedNano, err := b.recorded()
	if err != nil {
		return err
	}
	logged, loggedNano, err := b.logged()
	if err != nil {
		return err
	}
	perTask := map[string]int{}
	for _, e := range b.of(audit.UsageRecorded) {
		perTask[e.Subject]++
	}
	once := 0
	for task := range tasks {
		if perTask[task] == 1 {
			once++
		}
	}
	claim("metered-once", "every task that was answered is metered exactly once, and nothing else is", once == len(d.answered) && len(perTask) == once, "%d of %d", once, len(d.answered))

	again, first := d.repeated, d.answered[0]
	same := again.task == first.task && again.receipt != nil && first.receipt != nil && *again.receipt == *first.receipt
	claim("retry-free", "a request sent twice gets one answer, one receipt and one bill", same && perTask[string(first.task)] == 1, "%d bill", perTask[string(first.task)])

	priced := 0
	for _, e := range b.of(audit.UsageRecorded) {
		if cost, err := nanoUSD(e.Details.Cost); err == nil && cost == priceOf(e.Details.TokensIn, e.Details.TokensOut) {
			priced++
		}
	}
	claim("prices", "every cost in the log is the price list times what was used", priced == int(logged), "%d of %d", priced, logged)
	claim("bills", "the log charges what the answers told their callers was used", loggedNano == d.expectedNanoUSD(), "%s of %s USD", usd(loggedNano), usd(d.expectedNanoUSD()))

	total, err := nanoUSD(b.totals.USD)
	if err != nil {
		return err
	}
	claim("totals", "records, running totals and log agree", recorded == logged && recordedNano == loggedNano && b.totals.Tasks == logged && total == loggedNano,
		"difference %s USD", usd(max(recordedNano, loggedNano, total)-min(recordedNano, loggedNano, total)))
	claim("reconciled", "every total and budget of the ledger follows from the log", d.original.Valid && strings.Contains(string(d.original.Reconciliation), `"consistent":true`), "%s", map[bool]string{true: "consistent", false: "not consistent"}[d.original.Valid])

	if err := d.checkLimits(claim); err != nil {
		return err
	}
	if err := d.checkPromise(claim); err != nil {
		return err
	}
	claim("log-valid", "the original directory verifies", d.original.Valid, "%s", verdictLine(d.original))
	named := !d.copied.Valid && d.copied.FirstBadSeq != nil && *d.copied.FirstBadSeq == d.seq && reasonOf(d.copied) == string(audit.HashMismatch)
	claim("forged-copy", fmt.Sprintf("one digit changed in a copy is found, and named: entry %d", d.seq), named, "%s", reasonOf(d.copied))
	claim("rewritten-log", "a log with all hashes computed anew is found by its signatures", !d.rewritten.Valid && reasonOf(d.rewritten) == string(audit.CheckpointMismatch), "%s", reasonOf(d.rewritten))
	for _, c := range d.report.Claims {
		if c.Passed {
			d.report.Passed++
		} else {
			d.report.Failed++
		}
	}
	return nil
}

// reasonOf is why a log is not valid, or "none".
func reasonOf(v auditVerdict) string {
	if v.Reason == nil {
		return "none"
	}
	return *v.Reason
}

// spent sums up what the log says ran under a delegation.
func (b *demoBooks) spent(id string) (tasks, nano int64, err error) {
	for _, e := range b.of(audit.UsageRecorded) {
		if !e.under(id) {
			continue
		}
		cost, err := nanoUSD(e.Details.Cost)
		if err != nil {
			return 0, 0, err
		}
		tasks, nano = tasks+1, nano+cost
	}
	return tasks, nano, nil
}

// checkLimits computes again what ran under the delegations.
func (d *demo) checkLimits(claim func(name, text string, passed bool, found string, args ...any)) error {
	b := d.books
	no := map[string]int{} // refusals by delegation
	for _, r := range d.refused {
		no[r.grant]++
	}
	claim("stranger", "a copied delegation is of no use to somebody else", d.refused[0].code == "delegation_audience", "%s", d.refused[0].code)

	loop := d.grants["loop"]
	tasks, nano, err := b.spent(loop.id)
	if err != nil {
		return err
	}
	claim("cost-cap", "the loop spent no more than its limit", nano <= *loop.nanoUSD && tasks <= loop.tasks, "%s of %s USD", usd(nano), usd(*loop.nanoUSD))
	last := d.refused[1]
	claim("not-too-early", "it was stopped only when one more task could have gone beyond", nano+demoMostNanoUSD > *loop.nanoUSD && last.grant == loop.id && limited(last.code), "%s + %s USD", usd(nano), usd(demoMostNanoUSD))

	race := d.grants["race"]
	if tasks, _, err = b.spent(race.id); err != nil {
		return err
	}
	claim("task-cap", fmt.Sprintf("of %d requests at once exactly %d ran", demoRaceRequests, race.tasks), tasks == race.tasks && no[race.id] == demoRaceRequests-int(race.tasks), "%d ran, %d refused", tasks, no[race.id])

	revoked := d.grants["revoked"]
	end, startedBefore, startedAfter := int64(-1), 0, 0
	for _, e := range b.log {
		switch {
		case e.Type == audit.DelegationRevoked && e.Subject == revoked.id:
			end = e.Seq
		case e.Type == audit.TaskStarted && e.under(revoked.id) && end < 0:
			startedBefore++
		case e.Type == audit.TaskStarted && e.under(revoked.id):
			startedAfter++
		}
	}
	claim("revocation", "after the entry of the revocation no task started under it", end >= 0 && startedBefore == demoBeforeRevoke && startedAfter == 0 && no[revoked.id] == demoAfterRevoke, "%d before, %d after", startedBefore, startedAfter)

	started := len(b.of(audit.TaskStarted))
	claim("refused-free", "a refused request started nothing and cost nothing", started == len(d.answered), "%d refused, %d started", len(d.refused), started)
	held := int64(0)
	for _, u := range b.used {
		nano, err := nanoUSD(u.USD.Held)
		if err != nil {
			return err
		}
		held += nano + u.Tasks.Held
	}
	claim("nothing-held", "no budget is still reserved when all is over", held == 0 && len(b.used) == len(d.grants), "%d", held)
	return nil
}

// checkPromise computes again when the library's promise was broken.
func (d *demo) checkPromise(claim func(name, text string, passed bool, found string, args ...any)) error {
	var timed, slow, atOpening, slowAtOpening int64
	var opened, ended []logEntry
	for _, e := range d.books.log {
		switch {
		case e.Type == audit.UsageRecorded:
			timed++
			if e.Details.DurationMS > demoPromiseMS {
				slow++
			}
		case e.Type == audit.SLABreach && e.Details.Event == "firing":
			opened = append(opened, e)
			atOpening, slowAtOpening = timed, slow
		case e.Type == audit.SLABreach && e.Details.Event == "resolved":
			ended = append(ended, e)
		}
	}
	claim("breach-opened", "one breach was opened, when more than 5 of 100 answers had been slow", len(opened) == 1 && 20*slowAtOpening > atOpening, "%d breach", len(opened))
	claim("breach-ended", "the same breach ended, when at most 5 of 100 answers were slow", len(opened) == 1 && len(ended) == 1 && opened[0].Subject == ended[0].Subject && 20*slow <= timed, "%d ended", len(ended))
	known := 0
	for _, n := range d.told {
		if n.Seq >= 0 && n.Seq < int64(len(d.books.log)) && d.books.log[n.Seq].Subject == n.Breach.ID && d.books.log[n.Seq].Details.Event == n.Event {
			known++
		}
	}
	claim("breach-told", "every piece of news about it is an entry of the log", known == len(d.told) && known >= 2, "%d of %d", known, len(d.told))
	return nil
}

// showClaims prints the claims, and the count as the last line.
func (d *demo) showClaims() {
	d.tell("")
	d.tell("%s", d.a.paint(ansiBold, "The claims, computed again from the exported log, the public key and the answers"))
	for _, c := range d.report.Claims {
		mark := d.a.paint(ansiGreen, "ok  ")
		if !c.Passed {
			mark = d.a.paint(ansiRed, "FAIL")
		}
		d.tell("   %s  %-14s %s: %s", mark, c.Name, c.Claim, c.Found)
	}
	d.tell("")
	d.tell("%d claims passed, %d failed", d.report.Passed, d.report.Failed)
}
