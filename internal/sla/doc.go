// Package sla judges agents by what they promised. An Engine is fed what
// happened - probe results, ends of tasks, promises, maintenance - each with the
// instant it happened and in the order it became known, and says at every instant
// what the last hour, day, week and month of each agent looked like, and which
// promises are broken since when. It reads no clock and does no I/O: the same
// events give the same answers in a live node, after a restart and in a replay.
//
// Uptime is exact to the millisecond. Tasks are counted in buckets of a minute to
// an hour, so that a window costs the same however many tasks are in it. Nothing
// is decided in floating point; floats appear in what is shown.
package sla
