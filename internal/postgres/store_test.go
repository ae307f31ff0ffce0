//go:build postgres

package postgres_test

import (
	"context"
	"flag"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/asap-protocol/asap-go/internal/postgres"
	"github.com/asap-protocol/asap-go/internal/postgrestest"
	"github.com/asap-protocol/asap-go/internal/storetest"
)

// cluster is the server of this package's tests; each takes a database of its own.
var cluster *postgrestest.Cluster

func TestMain(m *testing.M) {
	// A database for each history takes its time; the rules are tried on SQLite.
	if err := flag.Set("rapid.checks", "15"); err != nil {
		panic(err)
	}
	os.Exit(postgrestest.Main(m, func(c *postgrestest.Cluster) { cluster = c }))
}

func TestStore(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	storetest.Run(t, func(t testing.TB) storetest.Backend {
		url := cluster.Database(t)
		return storetest.Backend{Shared: true, Open: func(ctx context.Context) (storetest.Store, error) {
			return postgres.Open(ctx, url, postgres.Options{AuditPartition: 1000})
		}}
	})
}
