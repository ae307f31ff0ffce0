package sqlite_test

import (
	"context"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/asap-protocol/asap-go/internal/sqlite"
	"github.com/asap-protocol/asap-go/internal/storetest"
)

func TestFile(t *testing.T) {
	defer goleak.VerifyNone(t)
	storetest.Run(t, func(t testing.TB) storetest.Backend {
		path := filepath.Join(t.TempDir(), "asap.db")
		return storetest.Backend{Open: func(ctx context.Context) (storetest.Store, error) {
			return sqlite.Open(ctx, path, sqlite.Options{})
		}}
	})
}

func TestMemory(t *testing.T) {
	defer goleak.VerifyNone(t)
	storetest.Run(t, func(testing.TB) storetest.Backend {
		return storetest.Backend{Forgets: true, Open: func(ctx context.Context) (storetest.Store, error) {
			return sqlite.OpenMemory(ctx, sqlite.Options{})
		}}
	})
}
