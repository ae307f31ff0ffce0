package agent

import asap "github.com/asap-protocol/asap-go"

// Skills returns the ids of the agent's skills in the order of its manifest.
func (a *Agent) Skills() []string {
	ids := make([]string, len(a.manifest.Capabilities.Skills))
	for i, s := range a.manifest.Capabilities.Skills {
		ids[i] = s.ID
	}
	return ids
}

// defaultEndpoint is what a manifest announces until somebody knows better.
const defaultEndpoint = "http://127.0.0.1:8080/asap"

// Announce sets the addresses the manifest gives, as [Endpoints] does, once they
// are known. An agent that was given others keeps them. Call it before the agent
// is given to [NewServer].
func (a *Agent) Announce(asapURL, eventsURL string) {
	if a.manifest.Endpoints.ASAP == defaultEndpoint {
		Endpoints(asapURL, eventsURL)(&a.manifest)
	}
}

// Manifest returns a copy of what the agent announces; what its pointers and
// slices lead to is shared and must not be changed.
func (a *Agent) Manifest() asap.Manifest { return a.manifest }
