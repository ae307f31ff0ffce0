package agent

// Skills returns the ids of the agent's skills in the order of its manifest.
func (a *Agent) Skills() []string {
	ids := make([]string, len(a.manifest.Capabilities.Skills))
	for i, s := range a.manifest.Capabilities.Skills {
		ids[i] = s.ID
	}
	return ids
}

// Announce sets the addresses the manifest gives, as [Endpoints] does, once they
// are known. Call it before the agent is given to [NewServer].
func (a *Agent) Announce(asapURL, eventsURL string) { Endpoints(asapURL, eventsURL)(&a.manifest) }
