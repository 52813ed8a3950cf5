package iiitest

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// reply is a complete HTTP response.
type reply struct {
	status int
	header webHeader
	body   []byte
}

var (
	notFound        = jsonReply(http.StatusNotFound, `{"error":{"code":"NOT_FOUND","message":"Not Found"}}`)
	conditionNotMet = jsonReply(http.StatusUnprocessableEntity,
		`{"error":{"code":"CONDITION_NOT_MET","message":"Request condition not met"},"skipped":true}`)
	timedOut = jsonReply(http.StatusGatewayTimeout, `{"error":{"code":"MIDDLEWARE_TIMEOUT","message":"Middleware timed out"}}`)
)

func jsonReply(status int, body string) reply {
	return reply{status: status, header: webHeader{{"content-type", []string{"application/json"}}}, body: []byte(body)}
}

func (r reply) send(w *webExchange) { w.respond(r.status, cors(r.header), r.body) }

// failure returns the response to a request whose function has failed.
func failure(err *wireError) reply {
	return jsonReply(http.StatusInternalServerError, string(mustEncode(map[string]any{
		"error": map[string]string{"code": err.Code, "error_id": hexID(6), "message": err.Message},
	})))
}

// replyOf converts a function's result to a response. The function should return an object
// with the members status_code, headers and body. For any other result, the response is 200
// with an empty JSON object.
func replyOf(result json.RawMessage) reply {
	var room [fewMembers]member
	members := listOf(result, room[:0])
	header, typed := replyHeader(valueOf(members, "headers"))
	r := reply{status: statusOf(valueOf(members, "status_code")), header: header, body: valueOf(members, "body")}
	switch {
	case r.body == nil:
		r.body = []byte("{}")
	case typed && kindOf(r.body) == '"':
		r.body = []byte(unquote(r.body))
	case typed && isNull(r.body):
		r.body = nil
	}
	if !typed {
		r.header.add("content-type", "application/json")
	}
	return r
}

// middlewareReply converts a middleware function's response. The headers must be an object.
// The body is always sent as JSON.
func middlewareReply(response json.RawMessage) reply {
	members := membersOf(response)
	r := reply{status: statusOf(members["status_code"]), body: members["body"]}
	if r.body == nil {
		r.body = []byte("null")
	}
	if headers := members["headers"]; kindOf(headers) == '{' {
		r.header, _ = replyHeader(headers)
	}
	if r.header.find("content-type") == nil {
		r.header.add("content-type", "application/json")
	}
	return r
}

// statusOf decodes a status code. It returns 200 if the code is missing or invalid.
func statusOf(raw json.RawMessage) int {
	if status, err := strconv.ParseUint(string(raw), 10, 16); err == nil && status >= 100 && status <= 999 {
		return int(status)
	}
	return http.StatusOK
}

// replyHeader converts the headers of a function's reply, which are an object or an array of
// "Name: value" strings. Invalid fields are skipped. typed reports whether a content type is
// present, even an invalid one.
func replyHeader(raw json.RawMessage) (header webHeader, typed bool) {
	field := func(name, value string) {
		typed = typed || strings.EqualFold(name, "content-type")
		header.addValid(name, value)
	}
	switch kindOf(raw) {
	case '{':
		members := membersOf(raw)
		for _, name := range slices.Sorted(maps.Keys(members)) {
			if value := members[name]; kindOf(value) == '"' {
				field(name, unquote(value))
			}
		}
	case '[':
		for _, line := range itemsOf(raw) {
			if name, value, found := strings.Cut(stringOf(line), ":"); found {
				field(strings.TrimSpace(name), strings.TrimSpace(value))
			}
		}
	}
	return header, typed
}

func (h *webHeader) addValid(name, value string) {
	if name = strings.ToLower(name); validHeader(name, value) {
		h.add(name, value)
	}
}

// validHeader reports whether name is a token and value contains no control characters (RFC
// 9110, sections 5.1 and 5.5).
func validHeader(name, value string) bool {
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return isToken(name)
}

// isToken reports whether s is a token (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	const extra = "!#$%&'*+-.^_`|~"
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') && strings.IndexByte(extra, c) < 0 {
			return false
		}
	}
	return s != ""
}
