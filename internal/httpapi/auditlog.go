package httpapi

import (
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/audit"
)

func (a *API) listAudit(c *call) error {
	f, err := c.auditFilter()
	if err != nil {
		return err
	}
	limit, err := c.params.integer("limit", defaultLimit, 1, maxLimit)
	if err != nil {
		return err
	}
	var from int64
	if _, err := c.params.cursor("audit", &from); err != nil {
		return err
	}
	if from < 0 {
		return refusal(asap.CodeInvalidCursor)
	}
	entries, size, err := a.cfg.Audit.ListAudit(c.ctx(), f, from, limit+1)
	if err != nil {
		return err
	}
	next := ""
	if len(entries) > limit {
		if next, err = encodeCursor("audit", entries[limit].Seq); err != nil {
			return err
		}
		entries = entries[:limit]
	}
	b := []byte(`{"data":[`)
	for i := range entries {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendEntry(b, &entries[i]), '}')
	}
	b = appendPage(append(b, ']'), len(entries), next)
	b = strconv.AppendInt(append(b, `,"as_of_size":`...), size, 10)
	return writeBytes(c.w, http.StatusOK, append(b, '}'))
}

// auditFilter narrows to entries the caller is part of, unless it is the
// operator.
func (c *call) auditFilter() (f audit.Filter, err error) {
	if f.Actor, err = c.params.text("actor"); err != nil {
		return f, err
	}
	if f.Subject, err = c.params.text("subject", "task"); err != nil {
		return f, err
	}
	if f.Type, err = c.params.text("event_type"); err != nil {
		return f, err
	}
	if f.Agent, err = c.params.text("agent"); err != nil {
		return f, err
	}
	if f.Start, err = c.params.instant("start"); err != nil {
		return f, err
	}
	if c.caller.Role != Operator {
		f.Party = string(c.caller.Agent)
	}
	f.End, err = c.params.instant("end")
	return f, err
}

func (a *API) auditEntry(c *call) error {
	e, err := a.cfg.Audit.AuditEntry(c.ctx(), c.r.PathValue("id"))
	if err != nil {
		return err
	}
	me := string(c.caller.Agent)
	if c.caller.Role != Operator && e.Actor != me && e.Subject != me && !slices.Contains(e.Parties, me) {
		return refusal(asap.CodeNotFound) // what one may not see is not there
	}
	b := append(appendEntry(nil, &e), `,"octets":"`...)
	b = base64.StdEncoding.AppendEncode(b, e.Octets)
	b = append(b, '"')
	if proof, err := c.params.yes("proof"); err != nil {
		return err
	} else if proof {
		text, err := a.proofOf(c, e.Seq)
		if err != nil {
			return err
		}
		if b, err = jsontext.AppendQuote(append(b, `,"proof":`...), text); err != nil {
			return err
		}
	}
	return writeBytes(c.w, http.StatusOK, append(b, '}'))
}

// appendEntry writes the members the entry's octets say, then its hash, and
// leaves the object open.
func appendEntry(b []byte, e *audit.Entry) []byte {
	b = append(b, e.Octets[:len(e.Octets)-1]...)
	b = append(b, `,"hash":"`...)
	b = hex.AppendEncode(b, e.Hash[:])
	return append(b, '"')
}
