// Package kubernetes holds the manifests of a cluster of nodes, and checks them.
package kubernetes

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	strict "sigs.k8s.io/yaml"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/node"
)

// objects decodes a file, strictly: a field that Kubernetes does not know is an
// error.
func objects(t *testing.T, name string) map[string]any {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]func() any{
		"v1/ServiceAccount": func() any { return new(core.ServiceAccount) }, "v1/ConfigMap": func() any { return new(core.ConfigMap) },
		"v1/Service": func() any { return new(core.Service) }, "apps/v1/Deployment": func() any { return new(apps.Deployment) },
		"v1/PersistentVolumeClaim":           func() any { return new(core.PersistentVolumeClaim) },
		"policy/v1/PodDisruptionBudget":      func() any { return new(policy.PodDisruptionBudget) },
		"networking.k8s.io/v1/NetworkPolicy": func() any { return new(networking.NetworkPolicy) },
	}
	out := map[string]any{}
	documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for {
		doc, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		var meta struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
		}
		if err := strict.Unmarshal(doc, &meta); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if meta.Kind == "" { // comments
			continue
		}
		decode, ok := kinds[meta.APIVersion+"/"+meta.Kind]
		if !ok {
			t.Fatalf("%s: what is a %s/%s?", name, meta.APIVersion, meta.Kind)
		}
		object := decode()
		if err := strict.UnmarshalStrict(doc, object); err != nil {
			t.Errorf("%s: %s: %v", name, meta.Kind, err)
		}
		out[meta.Kind] = object
	}
}

func TestManifests(t *testing.T) {
	for _, name := range []string{"single.yaml", "cluster.yaml"} {
		t.Run(name, func(t *testing.T) {
			all := objects(t, name)
			deployment, ok := all["Deployment"].(*apps.Deployment)
			if !ok {
				t.Fatal("no deployment")
			}
			service := all["Service"].(*core.Service)
			network := all["NetworkPolicy"].(*networking.NetworkPolicy)
			pod := deployment.Spec.Template
			selectors := []map[string]string{deployment.Spec.Selector.MatchLabels, service.Spec.Selector, network.Spec.PodSelector.MatchLabels}
			if budget, ok := all["PodDisruptionBudget"].(*policy.PodDisruptionBudget); ok {
				selectors = append(selectors, budget.Spec.Selector.MatchLabels)
			} else if name == "cluster.yaml" {
				t.Error("no disruption budget")
			}
			for i, s := range selectors {
				if len(s) == 0 || pod.Labels["app.kubernetes.io/name"] != s["app.kubernetes.io/name"] {
					t.Errorf("selector %d is %v, the pods have %v", i, s, pod.Labels)
				}
			}
			if len(pod.Spec.Containers) != 1 {
				t.Fatal(len(pod.Spec.Containers), "containers")
			}
			c := pod.Spec.Containers[0]
			if !strings.HasSuffix(c.Image, ":"+asap.Version) {
				t.Errorf("the image is %s, the version %s", c.Image, asap.Version)
			}
			s := c.SecurityContext
			if s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation ||
				pod.Spec.SecurityContext.RunAsNonRoot == nil || !*pod.Spec.SecurityContext.RunAsNonRoot || *pod.Spec.SecurityContext.RunAsUser != 65532 {
				t.Error("the container has more rights than it needs")
			}
			for what, p := range map[string]*core.Probe{"/readyz": c.ReadinessProbe, "/healthz": c.LivenessProbe} {
				if p == nil || p.HTTPGet == nil || p.HTTPGet.Path != what {
					t.Errorf("the probe of %s is %+v", what, p)
				}
			}
			if c.StartupProbe == nil || c.Resources.Requests == nil || c.Resources.Limits == nil {
				t.Error("no start-up probe, or no bounds")
			}
			mounted := map[string]bool{}
			for _, v := range pod.Spec.Volumes {
				mounted[v.Name] = true
			}
			for _, m := range c.VolumeMounts {
				if !mounted[m.Name] {
					t.Errorf("%s mounts %s, which is no volume", m.MountPath, m.Name)
				}
			}
			path := filepath.Join(t.TempDir(), "asap.yaml")
			if err := os.WriteFile(path, []byte(all["ConfigMap"].(*core.ConfigMap).Data["asap.yaml"]), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := node.Load(path, nil); err != nil {
				t.Error(err)
			}
		})
	}
}
