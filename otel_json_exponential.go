package iii

import (
	"math"

	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// maxConvertedBounds bounds the buckets that an exponential histogram becomes.
const maxConvertedBounds = 160

// encodeExponential writes exponential histograms as explicit ones, since the
// engine would pass over them without a word.
func encodeExponential[N int64 | float64](e *otlpEncoder, points []metricdata.ExponentialHistogramDataPoint[N]) {
	for i := range points {
		p := &points[i]
		b := explicitBuckets{bounds: e.bounds[:0], counts: e.counts[:0]}
		b.convert(p.Scale, p.ZeroThreshold, p.ZeroCount, &p.PositiveBucket, &p.NegativeBucket)
		e.bounds, e.counts = b.bounds, b.counts
		h := metricdata.HistogramDataPoint[N]{
			Attributes: p.Attributes, StartTime: p.StartTime, Time: p.Time,
			Count: p.Count, Sum: p.Sum, Min: p.Min, Max: p.Max, Exemplars: p.Exemplars,
			Bounds: b.bounds, BucketCounts: b.counts,
		}
		for e.begin(); ; {
			e.buf = appendHistogram(e, e.buf, &h)
			if e.end() {
				break
			}
		}
	}
}

// explicitBuckets collects buckets in ascending order: counts[i] is of the values
// up to bounds[i], the last count of those beyond all bounds.
type explicitBuckets struct {
	bounds  []float64
	counts  []uint64
	carried uint64 // of buckets that end at -Inf, below every bound
}

// convert makes explicit buckets of exponential ones. At scale s, bucket i of the
// positive values goes from base^i to base^(i+1), base being 2^(2^-s); negative
// values mirror it, and those up to threshold from zero are counted apart. A
// bucket that holds its upper bound becomes one that does so, too; a negative
// one, mirrored, held the lower, which no measurement will show.
func (x *explicitBuckets) convert(scale int32, threshold float64, zeros uint64, positive, negative *metricdata.ExponentialBucket) {
	pos, neg := trimBuckets(positive), trimBuckets(negative)
	// Halving the number of buckets is lowering the scale by one: base squares.
	shift := 0
	for pos.width(shift)+neg.width(shift) > maxConvertedBounds-4 {
		shift++
	}
	unit := int(scale) - shift

	if len(neg.counts) > 0 {
		first, last := neg.first>>shift, neg.last()>>shift
		x.add(0, -exponentialBound(last+1, unit))
		for i := last; i >= first; i-- {
			x.add(neg.count(i, shift), -exponentialBound(i, unit))
		}
		x.add(0, -threshold)
	}
	if zeros > 0 || len(neg.counts) > 0 {
		x.add(zeros, threshold)
	}
	if len(pos.counts) > 0 {
		first, last := pos.first>>shift, pos.last()>>shift
		x.add(0, exponentialBound(first, unit))
		for i := first; i <= last; i++ {
			x.add(pos.count(i, shift), exponentialBound(i+1, unit))
		}
	}
	x.add(0, math.Inf(1))
}

// add adds the bucket from the last bound to upper. A bound that is not above the
// last one, since the buckets overlap or their bounds are too near zero to differ,
// joins the two; so does one that is no number.
func (x *explicitBuckets) add(n uint64, upper float64) {
	last := len(x.bounds) - 1
	switch {
	case math.IsInf(upper, 1):
		if len(x.counts) == len(x.bounds)+1 {
			x.counts[last+1] += n
			return
		}
		x.counts = append(x.counts, n+x.carried)
		x.carried = 0
	case len(x.counts) > len(x.bounds): // beyond the greatest bound
		x.counts[last+1] += n
	case math.IsInf(upper, -1) || upper != upper:
		x.carried += n
	case last >= 0 && upper <= x.bounds[last]:
		x.counts[last] += n
	default:
		x.bounds = append(x.bounds, upper+0) // -0 is 0
		x.counts = append(x.counts, n+x.carried)
		x.carried = 0
	}
}

// exponentialBound is base^i at the given scale; it may be 0 or infinite.
func exponentialBound(i int64, scale int) float64 {
	return math.Exp2(math.Ldexp(float64(i), -scale))
}

// bucketRange is a run of exponential buckets, empty ones at its ends left out.
type bucketRange struct {
	first  int64
	counts []uint64
}

func trimBuckets(b *metricdata.ExponentialBucket) bucketRange {
	lo, hi := 0, len(b.Counts)
	for lo < hi && b.Counts[hi-1] == 0 {
		hi--
	}
	for lo < hi && b.Counts[lo] == 0 {
		lo++
	}
	return bucketRange{int64(b.Offset) + int64(lo), b.Counts[lo:hi]}
}

func (r bucketRange) last() int64 { return r.first + int64(len(r.counts)) - 1 }

// width is the number of buckets when 2^shift are joined.
func (r bucketRange) width(shift int) int64 {
	if len(r.counts) == 0 {
		return 0
	}
	return r.last()>>shift - r.first>>shift + 1
}

// count is the number of values in bucket i when 2^shift are joined.
func (r bucketRange) count(i int64, shift int) (n uint64) {
	lo := max(i<<shift, r.first)
	hi := min((i+1)<<shift-1, r.last())
	for ; lo <= hi; lo++ {
		n += r.counts[lo-r.first]
	}
	return n
}
