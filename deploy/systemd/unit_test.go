// Package systemd holds the service unit, and checks it.
package systemd

import (
	"os"
	"testing"

	"github.com/coreos/go-systemd/v22/unit"
)

func TestUnit(t *testing.T) {
	f, err := os.Open("asap.service")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	options, err := unit.DeserializeOptions(f)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, o := range options {
		if o.Value != "" {
			got[o.Section+"."+o.Name] = o.Value
		}
	}
	for name, want := range map[string]string{
		"Service.ExecStart": "/usr/bin/asap serve --config /etc/asap/asap.yaml", "Service.DynamicUser": "yes", "Service.ProtectSystem": "strict",
		"Service.NoNewPrivileges": "yes", "Service.UMask": "0077", "Install.WantedBy": "multi-user.target",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
}
