// Package cronexpr parses cron expressions in the engine's syntax.
package cronexpr

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Schedule is a parsed cron expression, in UTC. The expression has six fields: seconds,
// minutes, hours, days of the month, months, and days of the week. A seventh field, the years,
// is optional. A time matches only if every field matches, so the day of the month and the day
// of the week must both match. Days of the week are numbered from 1 (Sunday) to 7 (Saturday).
type Schedule struct {
	seconds, minutes, hours, days, months, weekdays, years cronValues

	fields int
}

// Fields returns the number of fields in the expression: 7 if it includes the years, otherwise
// 6. For a shorthand such as @daily, it returns 0.
func (s *Schedule) Fields() int { return s.fields }

// cronValues reports for each value of a field whether it matches.
type cronValues []bool

// cronField describes a field's syntax.
type cronField struct {
	name     string
	min, max uint32
	any      bool              // accepts ? as an alternative to *
	names    map[string]uint32 // in lower case
	unknown  string            // error text for an unknown name
}

var cronFields = [7]cronField{
	{name: "Seconds", max: 59},
	{name: "Minutes", max: 59},
	{name: "Hours", max: 23},
	{name: "Days of Month", min: 1, max: 31, any: true},
	{name: "Months", min: 1, max: 12, unknown: "month name", names: map[string]uint32{
		"jan": 1, "january": 1, "feb": 2, "february": 2, "mar": 3, "march": 3, "apr": 4, "april": 4, "may": 5, "jun": 6, "june": 6,
		"jul": 7, "july": 7, "aug": 8, "august": 8, "sep": 9, "september": 9, "oct": 10, "october": 10, "nov": 11, "november": 11,
		"dec": 12, "december": 12,
	}},
	{name: "Days of Week", min: 1, max: 7, any: true, unknown: "day of the week", names: map[string]uint32{
		"sun": 1, "sunday": 1, "mon": 2, "monday": 2, "tue": 3, "tues": 3, "tuesday": 3, "wed": 4, "wednesday": 4,
		"thu": 5, "thurs": 5, "thursday": 5, "fri": 6, "friday": 6, "sat": 7, "saturday": 7,
	}},
	{name: "Years", min: 1970, max: 2100},
}

var cronShorthands = []struct{ short, long string }{
	{"@yearly", "0 0 0 1 1 *"},
	{"@monthly", "0 0 0 1 * *"},
	{"@weekly", "0 0 0 * * 1"},
	{"@daily", "0 0 0 * * *"},
	{"@hourly", "0 0 * * * *"},
}

// Parse parses an expression. Its errors have the same text as the engine's.
func Parse(expression string) (*Schedule, error) {
	p := cronParser{text: expression}
	if long := p.shorthand(); long != "" {
		if !p.atEnd() {
			return nil, p.fail("")
		}
		s, err := Parse(long)
		s.fields = 0
		return s, err
	}
	s := &Schedule{fields: len(cronFields)}
	for i, to := range []*cronValues{&s.seconds, &s.minutes, &s.hours, &s.days, &s.months, &s.weekdays, &s.years} {
		f, start := &cronFields[i], p.i
		items, ok := p.field(f.any)
		values, err := f.values(items)
		switch {
		case i == 6 && (!ok || err != nil): // no years: the expression must end here
			p.i = start
			values, _ = f.values([]cronItem{{form: cronAll}})
			s.fields--
		case !ok:
			return nil, p.fail("")
		case err != nil:
			p.i = start
			return nil, p.fail(err.Error())
		}
		*to = values
	}
	if !p.atEnd() {
		return nil, p.fail("")
	}
	return s, nil
}

// engineText is an error with the same text as the engine's.
type engineText string

func (e engineText) Error() string { return string(e) }

// cronParser parses an expression as the engine's parser does. Because it does not first split
// the expression into fields, fields need no blanks between them, and blanks can surround
// numbers and names.
type cronParser struct {
	text string
	i    int
}

type cronForm int

const (
	cronAll     cronForm = iota // * or ?
	cronNumber                  // 5
	cronNumbers                 // 5-7
	cronName                    // mon
	cronNames                   // mon-fri
)

// cronItem is an item of a field. All items except single names can have a step.
type cronItem struct {
	form             cronForm
	from, to         uint32
	fromName, toName string
	stepped          bool
	step             uint32
}

// fail returns an error at the current position. Its text shows the expression, a caret below
// the position, and the detail, which is empty for a syntax error. If the expression has
// several lines, only the affected line is shown.
//
// As in the engine, the caret is indented by the number of bytes before the position or, if
// the expression has several lines, by the number of characters.
func (p *cronParser) fail(detail string) error {
	if !strings.Contains(p.text, "\n") {
		return engineText(fmt.Sprintf("%s\n%s^\n%s", p.text, strings.Repeat(" ", p.i), detail))
	}
	last := min(p.i, len(p.text)-1)
	start := strings.LastIndexByte(p.text[:last], '\n') + 1
	number := strconv.Itoa(strings.Count(p.text[:start], "\n") + 1)
	line, _, _ := strings.Cut(p.text[start:], "\n")
	column := last - start
	if before := p.text[start : last+1]; utf8.ValidString(before) {
		column = utf8.RuneCountInString(before) - 1
	}
	column += p.i - last
	gutter := strings.Repeat(" ", len(number))
	return engineText(fmt.Sprintf("parse error at line %s, column %d\n%s |\n%s | %s\n%s | %s^\n%s",
		number, column+1, gutter, number, line, gutter, strings.Repeat(" ", column), detail))
}

func (p *cronParser) atEnd() bool { return p.i == len(p.text) }

func (p *cronParser) space() {
	for p.i < len(p.text) && strings.IndexByte(" \t\r\n", p.text[p.i]) >= 0 {
		p.i++
	}
}

// literal consumes c if it is the next byte.
func (p *cronParser) literal(c byte) bool {
	if p.atEnd() || p.text[p.i] != c {
		return false
	}
	p.i++
	return true
}

// shorthand consumes a shorthand, if there is one, and returns its expansion.
func (p *cronParser) shorthand() string {
	start := p.i
	p.space()
	for _, s := range cronShorthands {
		if strings.HasPrefix(p.text[p.i:], s.short) {
			p.i += len(s.short)
			p.space()
			return s.long
		}
	}
	p.i = start
	return ""
}

// word consumes one or more bytes accepted by the predicate, and the blanks around them.
func (p *cronParser) word(is func(c byte) bool) string {
	start := p.i
	p.space()
	from := p.i
	for !p.atEnd() && is(p.text[p.i]) {
		p.i++
	}
	word := p.text[from:p.i]
	if word == "" {
		p.i = start
		return ""
	}
	p.space()
	return word
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

func (p *cronParser) letters() (string, bool) {
	name := p.word(isLetter)
	return name, name != ""
}

// number consumes a number of up to 32 bits. A larger number does not match.
func (p *cronParser) number() (uint32, bool) {
	start := p.i
	n, err := strconv.ParseUint(p.word(isDigit), 10, 32)
	if err != nil {
		p.i = start
		return 0, false
	}
	return uint32(n), true
}

// span consumes the part of an item that can be followed by a step.
func (p *cronParser) span(any bool) (item cronItem, ok bool) {
	start := p.i
	if any && p.literal('?') || p.literal('*') {
		return cronItem{form: cronAll}, true
	}
	if from, ok := p.number(); ok {
		single := p.i
		if p.literal('-') {
			if to, ok := p.number(); ok {
				return cronItem{form: cronNumbers, from: from, to: to}, true
			}
		}
		p.i = single
		return cronItem{form: cronNumber, from: from, to: from}, true
	}
	if from, ok := p.letters(); ok && p.literal('-') {
		if to, ok := p.letters(); ok {
			return cronItem{form: cronNames, fromName: from, toName: to}, true
		}
	}
	p.i = start
	return cronItem{}, false
}

// item consumes an item and its step, if it has one.
func (p *cronParser) item(any bool) (cronItem, bool) {
	item, ok := p.span(any)
	if !ok {
		name, ok := p.letters()
		return cronItem{form: cronName, fromName: name}, ok
	}
	end := p.i
	if p.literal('/') {
		if item.step, item.stepped = p.number(); item.stepped {
			return item, true
		}
	}
	p.i = end
	return item, true
}

// field consumes items separated by commas, and the blanks around them. It does not consume a
// trailing comma.
func (p *cronParser) field(any bool) (items []cronItem, ok bool) {
	p.space()
	item, ok := p.item(any)
	if !ok {
		return nil, false
	}
	items = append(items, item)
	for {
		end := p.i
		if !p.literal(',') {
			break
		}
		if item, ok = p.item(any); !ok {
			p.i = end
			break
		}
		items = append(items, item)
	}
	p.space()
	return items, true
}

func (f *cronField) values(items []cronItem) (cronValues, error) {
	values := make(cronValues, f.max+1)
	for _, item := range items {
		if err := f.add(values, item); err != nil {
			return nil, err
		}
	}
	return values, nil
}

func (f *cronField) add(values cronValues, item cronItem) error {
	step := uint32(1)
	if item.stepped {
		switch step = item.step; {
		case step == 0:
			return engineText("range step cannot be zero")
		case step > f.max:
			return engineText(fmt.Sprintf("%s must be between 1 and %d. ('%d' specified.)", f.name, f.max, step))
		}
	}
	from, to := item.from, item.to
	switch item.form {
	case cronAll:
		from, to = f.min, f.max
	case cronNumber:
		switch {
		case from < f.min:
			return engineText(fmt.Sprintf("%s must be greater than or equal to %d. ('%d' specified.)", f.name, f.min, from))
		case from > f.max:
			return engineText(fmt.Sprintf("%s must be less than %d. ('%d' specified.)", f.name, f.max, from))
		case item.stepped:
			to = f.max
		}
	case cronNumbers:
		if from < f.min || to > f.max || from > to {
			return engineText(fmt.Sprintf("Invalid range for %s: %d-%d", f.name, from, to))
		}
	case cronName, cronNames:
		var err error
		if from, err = f.named(item.fromName); err != nil {
			return err
		}
		if to = from; item.form == cronNames {
			if to, err = f.named(item.toName); err != nil {
				return err
			}
		}
		if from > to {
			return engineText(fmt.Sprintf("Invalid named range for %s: %s-%s", f.name, item.fromName, item.toName))
		}
	}
	for v := from; v <= to; v += step {
		values[v] = true
	}
	return nil
}

func (f *cronField) named(name string) (uint32, error) {
	if f.names == nil {
		return 0, engineText(fmt.Sprintf("The '%s' field does not support using names. '%s' specified.", f.name, name))
	}
	v, known := f.names[strings.ToLower(name)]
	if !known {
		return 0, engineText(fmt.Sprintf("'%s' is not a valid %s.", name, f.unknown))
	}
	return v, nil
}

// Next returns the first matching time after t. If there is none, it returns false.
func (s *Schedule) Next(t time.Time) (time.Time, bool) {
	date := func(year int, month time.Month, day, hour int) time.Time {
		return time.Date(year, month, day, hour, 0, 0, 0, time.UTC)
	}
	for t = t.UTC().Truncate(time.Second).Add(time.Second); t.Year() < len(s.years); {
		year, month, day := t.Date()
		switch {
		case !s.years[year]:
			t = date(year+1, time.January, 1, 0)
		case !s.months[month]:
			t = date(year, month+1, 1, 0)
		case !s.days[day] || !s.weekdays[int(t.Weekday())+1]:
			t = date(year, month, day+1, 0)
		case !s.hours[t.Hour()]:
			t = date(year, month, day, t.Hour()+1)
		case !s.minutes[t.Minute()]:
			t = t.Truncate(time.Minute).Add(time.Minute)
		case !s.seconds[t.Second()]:
			t = t.Add(time.Second)
		default:
			return t, true
		}
	}
	return time.Time{}, false
}
