package iiitest

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
)

// reply is a response of the http triggers, complete.
type reply struct {
	status int
	header http.Header
	body   []byte
}

var (
	notFound        = jsonReply(http.StatusNotFound, `{"error":{"code":"NOT_FOUND","message":"Not Found"}}`)
	conditionNotMet = jsonReply(http.StatusUnprocessableEntity,
		`{"error":{"code":"CONDITION_NOT_MET","message":"Request condition not met"},"skipped":true}`)
	timedOut = jsonReply(http.StatusGatewayTimeout, `{"error":{"code":"MIDDLEWARE_TIMEOUT","message":"Middleware timed out"}}`)
)

func jsonReply(status int, body string) reply {
	return reply{status: status, header: http.Header{"Content-Type": {"application/json"}}, body: []byte(body)}
}

// failure is the reply to a request whose function failed.
func failure(err *wireError) reply {
	return jsonReply(http.StatusInternalServerError, string(mustEncode(map[string]any{
		"error": map[string]string{"code": err.Code, "error_id": hexID(6), "message": err.Message},
	})))
}

func (r reply) write(rw http.ResponseWriter, head bool) {
	h := rw.Header()
	for name, values := range r.header {
		h[name] = values
	}
	if !head || h.Get("Content-Length") == "" { // an answer to HEAD may tell the length of what it leaves out
		h["Content-Length"] = []string{strconv.Itoa(len(r.body))}
	}
	rw.WriteHeader(r.status)
	_, _ = rw.Write(r.body) // nothing for HEAD and 204: net/http knows
}

// replyOf makes a reply of what a function returned: the fields status_code,
// headers and body of an object. Anything else is 200 with an empty object.
func replyOf(result json.RawMessage) reply {
	r := reply{status: http.StatusOK, header: http.Header{}}
	var members map[string]json.RawMessage
	if kindOf(result) == '{' {
		members = (&scanner{b: result}).members()
	}
	r.status = statusOf(members["status_code"])
	setHeaders(r.header, members["headers"])
	body, there := members["body"]
	if !there {
		body = json.RawMessage("{}")
	}
	switch typed := r.header.Get("Content-Type") != ""; {
	case typed && kindOf(body) == '"':
		r.body = []byte(unquote(body))
	case typed && isNull(body):
		r.body = nil
	default:
		r.body = body
		if !typed {
			r.header["Content-Type"] = []string{"application/json"}
		}
	}
	return r
}

// middlewareReply makes a reply of what a middleware function answered: headers
// as a map only, the body always as JSON.
func middlewareReply(response json.RawMessage) reply {
	r := reply{status: http.StatusOK, header: http.Header{"Content-Type": {"application/json"}}, body: []byte("{}")}
	if kindOf(response) != '{' {
		return r
	}
	members := (&scanner{b: response}).members()
	r.status = statusOf(members["status_code"])
	if headers := members["headers"]; kindOf(headers) == '{' {
		setHeaders(r.header, headers)
	}
	if body, there := members["body"]; there {
		r.body = body
	}
	return r
}

// statusOf is a status code, or 200 for what is none.
func statusOf(raw json.RawMessage) int {
	if status, err := strconv.ParseUint(string(raw), 10, 16); err == nil && status >= 100 && status <= 999 {
		return int(status)
	}
	return http.StatusOK
}

// setHeaders applies the headers of a function, a map of values or a list of
// "Name: value" lines, which may repeat a name. What is no valid header is
// skipped.
func setHeaders(h http.Header, raw json.RawMessage) {
	switch kindOf(raw) {
	case '{':
		for name, value := range (&scanner{b: raw}).members() {
			if kindOf(value) == '"' && validHeader(name, unquote(value)) {
				h.Set(name, unquote(value))
			}
		}
	case '[':
		var lines []json.RawMessage
		_ = json.Unmarshal(raw, &lines)
		for _, line := range lines {
			if kindOf(line) != '"' {
				continue
			}
			name, value, found := strings.Cut(unquote(line), ":")
			name, value = strings.TrimSpace(name), strings.TrimSpace(value)
			if found && validHeader(name, value) {
				h.Add(name, value)
			}
		}
	}
}

// validHeader reports whether a name is a token and a value has no control
// characters (RFC 9110, 5.1 and 5.5).
func validHeader(name, value string) bool {
	const extra = "!#$%&'*+-.^_`|~"
	for i := range len(name) {
		c := name[i]
		if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') && strings.IndexByte(extra, c) < 0 {
			return false
		}
	}
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return name != ""
}
