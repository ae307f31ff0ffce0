// Package load puts a server under load and tells how it coped.
//
// The model: tasks arrive by a clock that does not wait for answers (an open
// loop), so that a server that stalls is charged for everybody who had to queue;
// without a rate, a connection sends its next task when the last was answered,
// which finds how much the server can do. Every run is bounded in count and
// time. What is told is what was answered, by the client's own count; a node is
// then asked what it has recorded, and the two must agree.
package load
