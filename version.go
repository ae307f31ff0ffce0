package asap

// Version is the version of this module. Its first two numbers are those of the
// ASAP release whose wire format it speaks.
const Version = "1.3.0"
