// Package registry holds the rules of the list of agents: who may put a manifest
// into it, and which agents a search finds in which order.
//
// The model: an [Agent] is what the registry holds of one agent. It comes from a
// manifest that the agent signed, from an entry of a Lite Registry document, or
// from the node itself, which hosts the agent. The first signed manifest pins
// its key; from then on a manifest must be signed with a pinned key and must not
// be older than the one that is there ([Registration.Apply]). An [Index] answers
// searches from memory. What an agent promises and what was measured of it are
// kept apart, each with the time it speaks of, and what nobody knows is absent,
// never zero. There is no storage and no network in here.
package registry
