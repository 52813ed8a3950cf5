package cronexpr

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func cronTime(t testing.TB, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.DateTime, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestCronNext(t *testing.T) {
	for _, test := range []struct {
		expression, after string
		want              []string // all times, if fewer than three
	}{
		{"* * * * * *", "2026-11-23 09:46:03", []string{"2026-11-23 09:46:04", "2026-11-23 09:46:05", "2026-11-23 09:46:06"}},
		{"*/2 * * * * *", "2026-11-23 09:46:03", []string{"2026-11-23 09:46:04", "2026-11-23 09:46:06", "2026-11-23 09:46:08"}},
		{"58/1 59 23 31 12 *", "2026-12-31 23:59:58", []string{"2026-12-31 23:59:59", "2027-12-31 23:59:58", "2027-12-31 23:59:59"}},
		{"0 */25 * * * *", "2026-01-01 00:40:00", []string{"2026-01-01 00:50:00", "2026-01-01 01:00:00", "2026-01-01 01:25:00"}},
		{"30 5-7,59 4 * * *", "2026-02-28 04:06:30", []string{"2026-02-28 04:07:30", "2026-02-28 04:59:30", "2026-03-01 04:05:30"}},
		{"0 0 8-18/5 * * *", "2026-02-28 13:00:00", []string{"2026-02-28 18:00:00", "2026-03-01 08:00:00", "2026-03-01 13:00:00"}},
		{"0 0 0 1 1 *", "2026-11-23 00:00:00", []string{"2027-01-01 00:00:00", "2028-01-01 00:00:00", "2029-01-01 00:00:00"}},
		{"0 0 0 29 2 *", "2096-02-29 00:00:00", nil}, // 2100 is the last year, and not a leap year
		{"0 0 0 31 * *", "2026-04-01 00:00:00", []string{"2026-05-31 00:00:00", "2026-07-31 00:00:00", "2026-08-31 00:00:00"}},
		{"0 0 0 31 2 *", "2026-01-01 00:00:00", nil},
		// Days of the week are numbered from 1 (Sunday).
		{"0 0 0 * * 1", "2026-11-23 00:00:00", []string{"2026-11-29 00:00:00", "2026-12-06 00:00:00", "2026-12-13 00:00:00"}},
		{"0 0 0 * * SUN", "2026-11-23 00:00:00", []string{"2026-11-29 00:00:00", "2026-12-06 00:00:00", "2026-12-13 00:00:00"}},
		{"0 0 0 * * 7", "2026-11-23 00:00:00", []string{"2026-11-28 00:00:00", "2026-12-05 00:00:00", "2026-12-12 00:00:00"}},
		{"0 0 0 * * mon-Wednesday,fri", "2026-11-23 00:00:00", []string{"2026-11-24 00:00:00", "2026-11-25 00:00:00", "2026-11-27 00:00:00"}},
		{"0 0 0 * * */3", "2026-11-23 00:00:00", []string{"2026-11-25 00:00:00", "2026-11-28 00:00:00", "2026-11-29 00:00:00"}},
		// Both kinds of days must match.
		{"0 0 0 13 * FRI", "2026-11-13 00:00:00", []string{"2027-08-13 00:00:00", "2028-10-13 00:00:00", "2029-04-13 00:00:00"}},
		{"0 0 0 ? jul,December ?", "2026-07-30 12:00:00", []string{"2026-07-31 00:00:00", "2026-12-01 00:00:00", "2026-12-02 00:00:00"}},
		{"0 0 0 1 JAN-Dec/6 *", "2026-01-01 00:00:00", []string{"2026-07-01 00:00:00", "2027-01-01 00:00:00", "2027-07-01 00:00:00"}},
		{"0 0 0 24 12 * 2030", "2026-11-23 00:00:00", []string{"2030-12-24 00:00:00"}},
		{"0 0 0 24 12 * 2020-2028/4,2030", "2026-11-23 00:00:00", []string{"2028-12-24 00:00:00", "2030-12-24 00:00:00"}},
		{"59 59 23 31 12 * 2100", "2026-11-23 00:00:00", []string{"2100-12-31 23:59:59"}},
		{"0 0 0 1 1 * 1970", "2026-11-23 00:00:00", nil},
		{"  0\t0 0 *  * * ", "2026-11-23 00:00:00", []string{"2026-11-24 00:00:00", "2026-11-25 00:00:00", "2026-11-26 00:00:00"}},
		// Fields need no blanks between them, and blanks can surround numbers and names.
		{"******", "2026-11-23 09:46:03", []string{"2026-11-23 09:46:04", "2026-11-23 09:46:05", "2026-11-23 09:46:06"}},
		{"0 0 0 1 - 3 , 5 * *", "2026-11-23 00:00:00", []string{"2026-12-01 00:00:00", "2026-12-02 00:00:00", "2026-12-03 00:00:00"}},
		{"0 0 0 * * tues - Thurs / 2", "2026-11-23 00:00:00", []string{"2026-11-24 00:00:00", "2026-11-26 00:00:00", "2026-12-01 00:00:00"}},
		{"0 0 0 10 / 10 * *", "2026-11-23 00:00:00", []string{"2026-11-30 00:00:00", "2026-12-10 00:00:00", "2026-12-20 00:00:00"}},
		{" @daily\r\n", "2026-11-23 00:00:00", []string{"2026-11-24 00:00:00", "2026-11-25 00:00:00", "2026-11-26 00:00:00"}},
		{"@hourly", "2026-11-23 00:00:00", []string{"2026-11-23 01:00:00", "2026-11-23 02:00:00", "2026-11-23 03:00:00"}},
		{"@daily", "2026-11-23 00:00:00", []string{"2026-11-24 00:00:00", "2026-11-25 00:00:00", "2026-11-26 00:00:00"}},
		{"@weekly", "2026-11-23 00:00:00", []string{"2026-11-29 00:00:00", "2026-12-06 00:00:00", "2026-12-13 00:00:00"}},
		{"@monthly", "2026-11-23 00:00:00", []string{"2026-12-01 00:00:00", "2027-01-01 00:00:00", "2027-02-01 00:00:00"}},
		{"@yearly", "2026-11-23 00:00:00", []string{"2027-01-01 00:00:00", "2028-01-01 00:00:00", "2029-01-01 00:00:00"}},
	} {
		t.Run(test.expression, func(t *testing.T) {
			s, err := Parse(test.expression)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for at, ok := s.Next(cronTime(t, test.after)); ok && len(got) < 3; at, ok = s.Next(at) {
				got = append(got, at.Format(time.DateTime))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestCronNextIsUTC(t *testing.T) {
	s, err := Parse("0 0 0 * * *")
	if err != nil {
		t.Fatal(err)
	}
	after := time.Date(2026, 11, 23, 1, 30, 0, 5, time.FixedZone("", 2*60*60)) // 23:30 of the previous day
	if got, _ := s.Next(after); !got.Equal(cronTime(t, "2026-11-23 00:00:00")) {
		t.Errorf("got %v", got)
	}
}

func TestInvalidCronExpressionsAreRejected(t *testing.T) {
	for _, test := range []struct {
		expression string
		at         int
		detail     string
	}{
		{" ", 1, ""},
		{"not a cron", 0, "The 'Seconds' field does not support using names. 'not' specified."},
		{"* * * * *", 9, ""},
		{"0 60 0 * * *", 2, "Minutes must be less than 59. ('60' specified.)"},
		{"0 0 99999999999999999999 * * *", 4, ""},
		{"0 0 4294967296 * * *", 4, ""},
		{"0 0 4294967295 * * *", 4, "Hours must be less than 23. ('4294967295' specified.)"},
		{"0 0 0 0 * *", 6, "Days of Month must be greater than or equal to 1. ('0' specified.)"},
		{"0 0 0 * * * 1969", 12, ""},
		{"0 0 0 * * * 2101", 12, ""},
		{"0 0 0 * * * x", 12, ""},
		{"0 0 0 * juvember *", 8, "'juvember' is not a valid month name."},
		{"0 0 0 * * Mond", 10, "'Mond' is not a valid day of the week."},
		{"5-2 * * * * *", 0, "Invalid range for Seconds: 5-2"},
		{"0 0 0 * * fri-mon", 10, "Invalid named range for Days of Week: fri-mon"},
		{"0 0 0 * * fri-monk", 10, "'monk' is not a valid day of the week."},
		{"1,2-70 * * * * *", 0, "Invalid range for Seconds: 2-70"},
		{"*/0 * * * * *", 0, "range step cannot be zero"},
		{"70/0 * * * * *", 0, "range step cannot be zero"},
		{"70/5 * * * * *", 0, "Seconds must be less than 59. ('70' specified.)"},
		{"*/99999999999999999999 * * * * *", 1, ""},
		{"0 -1 * * * *", 12, ""}, // a range, 0-1, and four more fields
		{"5 -1 * * * *", 0, "Invalid range for Seconds: 5-1"},
		{"0 ? * * * *", 2, ""},
		{"0 1, * * * *", 3, ""},
		{"0 1/ * * * *", 3, ""},
		{"0 * /2 * * *", 4, ""},
		{"0 0 0 * * MON/2", 10 + 3, ""},
		{"0 0 0 * MON-2 *", 8, "'MON' is not a valid month name."},
		{"0 0 0 L * *", 6, "The 'Days of Month' field does not support using names. 'L' specified."},
		{"0 0 0 * * * * *", 14, ""},
		{"@reboot", 0, ""},
		{"  @reboot", 2, ""},
		{"@Daily", 0, ""},
		{"@daily x", 7, ""},
		{"\u00a0@daily", 0, ""},
		{"\f* * * * * *", 0, ""},
	} {
		t.Run(test.expression, func(t *testing.T) {
			s, err := Parse(test.expression)
			if err == nil {
				t.Fatalf("accepted: %v", s)
			}
			want := test.expression + "\n" + strings.Repeat(" ", test.at) + "^\n" + test.detail
			if diff := cmp.Diff(want, err.Error()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// The caret below an error's position is indented by the number of preceding characters if the
// expression has several lines, and otherwise by the number of preceding bytes.
func TestCronErrorPositions(t *testing.T) {
	for _, test := range []struct{ expression, want string }{
		{"* * *\n* * !", "parse error at line 2, column 5\n  |\n2 | * * !\n  |     ^\n"},
		{"* * *\n* *\n", "parse error at line 2, column 5\n  |\n2 | * *\n  |     ^\n"},
		{"\n", "parse error at line 1, column 2\n  |\n1 | \n  |  ^\n"},
		{"*\n\n\n\n\n\n\n\n\n*\n60 * *", "parse error at line 11, column 1\n   |\n11 | 60 * *\n   | ^\nHours must be less than 23. ('60' specified.)"},
		{"* * * *\n* * *\u00a0", "parse error at line 2, column 6\n  |\n2 | * * *\u00a0\n  |      ^\n"},
	} {
		t.Run(test.expression, func(t *testing.T) {
			_, err := Parse(test.expression)
			if diff := cmp.Diff(engineText(test.want), err); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestFields(t *testing.T) {
	for expression, want := range map[string]int{
		"@daily": 0, " @daily": 0, "******": 6, "* * * * * *": 6, "*******": 7, "0 0 0 24 12 * 2030": 7, "0 0 0 1 - 3 , 5 * *": 6,
	} {
		s, err := Parse(expression)
		if err != nil || s.Fields() != want {
			t.Errorf("%q: %+v, %v, want %d fields", expression, s, err, want)
		}
	}
}

// FuzzCron checks that Parse does not panic, and that Next returns the earliest matching time.
func FuzzCron(f *testing.F) {
	for _, expression := range []string{
		"*/2 * * * * *", "0 0 0 13 * FRI", "0 0 0 31 2 *", "0 30 8-18/5 ? jul,December 2-6 2030-2040/3", "@daily", "not a cron", "* * * * *",
	} {
		f.Add(expression, int64(1795427164), uint16(100))
	}
	f.Fuzz(func(t *testing.T, expression string, from int64, gap uint16) {
		s, err := Parse(expression)
		if err != nil {
			if !strings.HasPrefix(err.Error(), expression+"\n") && !strings.HasPrefix(err.Error(), "parse error at line ") {
				t.Errorf("error without a place: %v", err)
			}
			return
		}
		matches := func(at time.Time) bool {
			return at.Year() < len(s.years) && s.years[at.Year()] && s.months[at.Month()] && s.days[at.Day()] &&
				s.weekdays[at.Weekday()+1] && s.hours[at.Hour()] && s.minutes[at.Minute()] && s.seconds[at.Second()]
		}
		after := time.Unix(from&(1<<32-1), 0).UTC() // 1970 to 2106
		next, ok := s.Next(after)
		if ok && (!matches(next) || !next.After(after)) {
			t.Errorf("%q: %v is not after %v", expression, next, after)
		}
		for at := after.Add(time.Second); at.Before(after.Add(time.Duration(gap) * time.Second)); at = at.Add(time.Second) {
			if matches(at) && (!ok || at.Before(next)) {
				t.Errorf("%q: %v is a time after %v, not %v, %v", expression, at, after, next, ok)
				break
			}
		}
	})
}
