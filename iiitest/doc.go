// Package iiitest is a development engine of iii in the process of its caller,
// as net/http/httptest is a web server in the process of a test: nobody needs
// an installed engine to write, run or test a worker.
package iiitest
