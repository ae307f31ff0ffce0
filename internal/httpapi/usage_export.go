package httpapi

import (
	"net/http"
	"strconv"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/metering"
)

// The trailing header fields of an export. They are the only proof a CSV has of
// being whole, and come with the other forms too.
const (
	trailerCount    = "Asap-Export-Count"
	trailerSHA256   = "Asap-Export-Sha256"
	trailerComplete = "Asap-Export-Complete"
)

func (a *API) export(c *call) error {
	name, err := c.params.text("export_format", "format")
	if err != nil {
		return err
	}
	form := metering.Format(name)
	var media, file string
	switch form {
	case "", metering.JSON:
		form, media, file = metering.JSON, "application/json", "usage_export.json"
	case metering.CSV:
		media, file = "text/csv; charset=utf-8", "usage_export.csv"
	case metering.NDJSON:
		media, file = "application/x-ndjson", "usage_export.ndjson"
	default:
		return refuse(asap.CodeInvalidFilter, "export_format", "must be json, csv or ndjson")
	}
	f, err := c.params.filter()
	if err != nil {
		return err
	}
	limit, err := c.params.integer("limit", 0, 1, maxExport)
	if err != nil {
		return err
	}
	out := &lateHeader{w: c.w, set: func(h http.Header) {
		h.Set("Content-Type", media)
		h.Set("Content-Disposition", "attachment; filename="+file)
		for _, t := range []string{trailerCount, trailerSHA256, trailerComplete} {
			h.Add("Trailer", t)
		}
	}}
	trailer, err := metering.Export(out, form, a.cfg.Usage.ExportUsage(c.ctx(), c.own(f)), int64(limit))
	if err != nil {
		if !out.begun {
			return err
		}
		if c.ctx().Err() == nil {
			a.cfg.Logger.ErrorContext(c.ctx(), "export broke off", "error", err)
		}
		panic(http.ErrAbortHandler) // the way to cut the connection, so that the reader notices
	}
	c.w.Header().Set(trailerCount, strconv.FormatInt(trailer.Count, 10))
	c.w.Header().Set(trailerSHA256, trailer.SHA256)
	c.w.Header().Set(trailerComplete, strconv.FormatBool(trailer.Complete))
	return nil
}

// lateHeader sets headers with the first byte, so that an error before it can
// still be answered as one.
type lateHeader struct {
	w     http.ResponseWriter
	set   func(http.Header)
	begun bool
}

func (l *lateHeader) Write(b []byte) (int, error) {
	if !l.begun {
		l.begun = true
		l.set(l.w.Header())
		l.w.WriteHeader(http.StatusOK)
	}
	return l.w.Write(b)
}
