package iiitest

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// cronSchedule is a cron expression: six fields (seconds, minutes, hours, days
// of the month, months, days of the week) and perhaps a seventh, the years. A
// time belongs to it when all of them match, both kinds of days too. Days of the
// week are 1, which is Sunday, to 7. It is in UTC.
type cronSchedule struct {
	seconds, minutes, hours, days, months, weekdays, years cronValues
}

// cronValues says for each value of a field whether it matches.
type cronValues []bool

// cronField is what may stand in a field of an expression.
type cronField struct {
	name     string
	min, max int
	any      bool     // takes ? for *
	names    []string // of the values from min on; their first three letters will do
}

var cronFields = [7]cronField{
	{name: "Seconds", max: 59},
	{name: "Minutes", max: 59},
	{name: "Hours", max: 23},
	{name: "Days of Month", min: 1, max: 31, any: true},
	{name: "Months", min: 1, max: 12, names: []string{
		"january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december",
	}},
	{name: "Days of Week", min: 1, max: 7, any: true, names: []string{
		"sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday",
	}},
	{name: "Years", min: 1970, max: 2100},
}

var cronShorthands = map[string]string{
	"@yearly":  "0 0 0 1 1 *",
	"@monthly": "0 0 0 1 * *",
	"@weekly":  "0 0 0 * * 1",
	"@daily":   "0 0 0 * * *",
	"@hourly":  "0 0 * * * *",
}

// cronError says what is wrong with an expression, in the engine's words: the
// expression, a line that points at the place, and what is wrong there, which is
// nothing where the engine only knows that it cannot read on.
func cronError(expression string, at int, detail string) error {
	return engineText(fmt.Sprintf("%s\n%s^\n%s", expression, strings.Repeat(" ", at), detail))
}

// cronItem is the form of an item of a field: a number, a name, a range of either,
// or all values; all but a single name may have a step.
var cronItem = regexp.MustCompile(`^(?:[A-Za-z]+|([*?]|[0-9]+(?:-[0-9]+)?|[A-Za-z]+-[A-Za-z]+)(?:/[0-9]+)?)$`)

// parseCron reads an expression.
func parseCron(expression string) (*cronSchedule, error) {
	text := expression
	if long, ok := cronShorthands[text]; ok {
		text = long
	}
	s := &cronSchedule{}
	fields, at := strings.Fields(text), 0
	for i, to := range []*cronValues{&s.seconds, &s.minutes, &s.hours, &s.days, &s.months, &s.weekdays, &s.years} {
		field := "*" // any year
		switch {
		case i < len(fields):
			field = fields[i]
			at += strings.Index(text[at:], field)
		case i < 6:
			return nil, cronError(expression, len(text), "")
		}
		values, err := cronFields[i].parse(field)
		if err != nil {
			return nil, cronError(expression, at, err.Error())
		}
		*to = values
		at += len(field)
	}
	if len(fields) > 7 {
		return nil, cronError(expression, at, "")
	}
	return s, nil
}

// parse reads a field: items with commas between them.
func (f cronField) parse(text string) (cronValues, error) {
	values := make(cronValues, f.max+1)
	for item := range strings.SplitSeq(text, ",") {
		if !cronItem.MatchString(item) || item[0] == '?' && !f.any {
			return nil, engineText("")
		}
		if err := f.add(values, item); err != nil {
			return nil, err
		}
	}
	return values, nil
}

// add adds the values of an item.
func (f cronField) add(values cronValues, item string) error {
	from, to, step := f.min, f.max, 1
	span, every, stepped := strings.Cut(item, "/")
	if stepped {
		var err error
		if step, err = strconv.Atoi(every); err != nil || step == 0 {
			return engineText(fmt.Sprintf("'%s' is not a valid step for %s.", every, f.name))
		}
	}
	if span != "*" && span != "?" {
		first, last, ranged := strings.Cut(span, "-")
		var err error
		if from, err = f.value(first); err != nil {
			return err
		}
		switch {
		case ranged:
			if to, err = f.value(last); err != nil {
				return err
			}
			if from > to {
				return engineText(fmt.Sprintf("Invalid range for %s: %s-%s", f.name, first, last))
			}
		case !stepped:
			to = from
		}
	}
	step = min(step, f.max+1) // from + step must not overflow
	for v := from; v <= to; v += step {
		values[v] = true
	}
	return nil
}

// value reads a number or a name.
func (f cronField) value(text string) (int, error) {
	if text[0] > '9' {
		if f.names == nil {
			return 0, engineText(fmt.Sprintf("The '%s' field does not support using names. '%s' specified.", f.name, text))
		}
		for i, name := range f.names {
			if lower := strings.ToLower(text); lower == name || lower == name[:3] {
				return f.min + i, nil
			}
		}
		return 0, engineText(fmt.Sprintf("'%s' is not a valid name for %s.", text, f.name))
	}
	n, err := strconv.Atoi(text) // all digits: too many of them at the worst
	switch {
	case err != nil || n > f.max:
		return 0, engineText(fmt.Sprintf("%s must be less than or equal to %d. ('%s' specified.)", f.name, f.max, text))
	case n < f.min:
		return 0, engineText(fmt.Sprintf("%s must be greater than or equal to %d. ('%s' specified.)", f.name, f.min, text))
	}
	return n, nil
}

// next is the first time of the schedule after t, if there is one.
func (s *cronSchedule) next(t time.Time) (time.Time, bool) {
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
