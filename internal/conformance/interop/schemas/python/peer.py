"""Registers functions whose schemas pydantic makes, with examples of their values.

The worker connects to the engine at $III_URL, prints "ready" and serves until its
standard input ends.
"""

import enum
import os
import sys
import warnings
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, Optional, TypeVar, Union
from uuid import UUID

from iii import InitOptions, register_worker
from pydantic import AnyUrl, Base64Bytes, BaseModel, ConfigDict, Field, RootModel, TypeAdapter
from typing_extensions import TypeAliasType, TypedDict

warnings.simplefilter("ignore")


class Scalars(BaseModel):
    """Every kind of scalar.

    It has a second paragraph."""

    text: str
    count: int
    ratio: float
    done: bool


class Optionals(BaseModel):
    required_nullable: Optional[str]
    optional_nullable: Optional[int] = None
    defaulted: int = 3
    greeting: str = "hello"


class Constraints(BaseModel):
    age: int = Field(ge=0, le=150, description="Age in years.")
    positive: int = Field(gt=0)
    name: str = Field(min_length=1, max_length=64, pattern="^[a-z]+$")
    score: float = Field(multiple_of=0.5)
    wide: int = Field(ge=0, le=2**64 - 1)


class Color(str, enum.Enum):
    RED = "red"
    GREEN = "green"
    NAVY_BLUE = "navy-blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 10


class Enums(BaseModel):
    color: Color
    level: Level
    maybe: Optional[Color] = None
    literal: Literal["on", "off"] = "on"
    mixed: Literal["auto", 1, 2]


class Address(BaseModel):
    street: str
    city: str


class Nested(BaseModel):
    home: Address
    work: Optional[Address] = None
    all: list[Address]


class Lists(BaseModel):
    names: list[str]
    matrix: list[list[float]]
    unique: set[int]
    bounded: list[str] = Field(min_length=1, max_length=3)
    optional: Optional[list[int]] = None


class Maps(BaseModel):
    counts: dict[str, int]
    addresses: dict[str, Address]
    anything: dict[str, Any]
    by_color: dict[Color, float]
    by_number: dict[int, str]


class Formats(BaseModel):
    at: datetime
    day: date
    hour: time
    took: timedelta
    id: UUID
    url: AnyUrl
    price: Decimal
    data: Base64Bytes


class Tree(BaseModel):
    value: int
    children: list["Tree"] = []


class Person(BaseModel):
    name: str
    spouse: Optional["Person"] = None
    pets: list["Pet"] = []


class Pet(BaseModel):
    name: str
    owner: Optional[Person] = None


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    good: bool


Animal = Annotated[Union[Cat, Dog], Field(discriminator="kind")]


class Zoo(BaseModel):
    star: Animal
    animals: list[Animal]


class Unions(BaseModel):
    id: Union[int, str]
    value: Union[str, list[str], None] = None
    shape: Union[Address, "Point"]
    flag: Union[bool, Color]


class Point(BaseModel):
    x: float
    y: float


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    id: str


class OpenTyped(BaseModel):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, int]
    id: str


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: str


class Aliases(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    user_id: str = Field(alias="userId")
    kind: str = Field(alias="type")
    dashed: int = Field(alias="x-dashed-name")
    dollar: str = Field(alias="$ref")
    umlaut: str = Field(alias="größe")
    digits: bool = Field(alias="2fa")


class Coordinates(NamedTuple):
    lat: float
    lon: float


class Tuples(BaseModel):
    pair: tuple[str, int]
    same: tuple[float, float, float]
    any_length: tuple[str, ...]
    place: Coordinates


T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    items: list[T]
    next: Optional[str] = None


class Base(BaseModel):
    id: int


class Derived(Base):
    name: str


class Anything(BaseModel):
    value: Any
    optional: Any = None
    obj: dict


class Movie(TypedDict, total=False):
    title: str
    year: int


class Empty(BaseModel):
    pass


class Names(RootModel[list[str]]):
    pass


Json = TypeAliasType("Json", "Union[dict[str, Json], list[Json], str, float, bool, None]")

NOON = datetime(2026, 5, 4, 12, 30, tzinfo=timezone.utc)
HOME = Address(street="Main St", city="Springfield")
for model in (Tree, Person, Pet, Unions):
    model.model_rebuild()

iii = register_worker(os.environ["III_URL"], InitOptions(worker_name="pydantic"))


def register(name, construct, kind, *examples):
    """Register a function of a type; schemas come from the type hints for a model."""
    adapter = TypeAdapter(kind)
    metadata = {
        "construct": construct,
        "examples": [adapter.dump_python(adapter.validate_python(e), mode="json", by_alias=True) for e in examples],
    }
    formats = {}
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        formats = {"request_format": adapter.json_schema(), "response_format": adapter.json_schema(mode="serialization")}

    def handler(data):
        return data

    handler.__annotations__ = {"data": kind, "return": kind}
    iii.register_function(f"pydantic::{name}", handler, description=construct, metadata=metadata, **formats)


register("scalars", "str, int, float, bool", Scalars, Scalars(text="a", count=1, ratio=0.5, done=True))
register("optionals", "anyOf with null, defaults", Optionals, Optionals(required_nullable=None), Optionals(required_nullable="x", optional_nullable=0))
register("constraints", "bounds, lengths, patterns", Constraints, Constraints(age=3, positive=1, name="ann", score=1.5, wide=2**64 - 1))
register("enums", "enums of strings and numbers, literals", Enums, Enums(color="red", level=10, maybe="navy-blue", mixed=2), Enums(color="green", level=1, literal="off", mixed="auto"))
register("nested", "$ref, anyOf of $ref and null", Nested, Nested(home=HOME, all=[HOME]), Nested(home=HOME, work=HOME, all=[]))
register("lists", "arrays, arrays of arrays, sets", Lists, Lists(names=["a"], matrix=[[1, 2.5], []], unique={1}, bounded=["x"], optional=[]))
register("maps", "additionalProperties of a type, propertyNames", Maps, Maps(counts={"a": 1}, addresses={"h": HOME}, anything={"x": [1, None]}, by_color={"red": 0.5}, by_number={7: "seven"}))
register("formats", "date-time, date, time, duration, uuid, uri, decimal, base64", Formats, Formats(at=NOON, day=date(2026, 5, 4), hour=time(1, 2), took=timedelta(seconds=90), id=UUID(int=7), url="https://example.com/", price=Decimal("1.50"), data=b"aGVsbG8="))
register("tree", "recursive type in an array", Tree, Tree(value=1, children=[Tree(value=2)]))
register("people", "mutually recursive types, optional", Person, Person(name="A", spouse=Person(name="B"), pets=[Pet(name="C", owner=Person(name="D"))]))
register("zoo", "oneOf with a discriminator", Zoo, Zoo(star=Cat(lives=9), animals=[Dog(good=True), Cat(lives=1)]))
register("animal", "oneOf with a discriminator at the root", Animal, Cat(lives=9), Dog(good=False))
register("unions", "anyOf without a tag", Unions, Unions(id=1, shape=HOME, flag=True), Unions(id="x", value="v", shape=Point(x=1, y=2.5), flag="green"), Unions(id=2, value=["v"], shape=HOME, flag=False))
register("open", "additionalProperties: true", Open, Open(id="a", more=[1, 2]), Open(id="b"))
register("opentyped", "additionalProperties of a type beside properties", OpenTyped, OpenTyped(id="a", more=1))
register("closed", "additionalProperties: false", Closed, Closed(id="a"))
register("aliases", "names that are no Go identifiers", Aliases, Aliases(user_id="u", kind="k", dashed=1, dollar="d", umlaut="L", digits=True))
register("tuples", "prefixItems", Tuples, Tuples(pair=("a", 1), same=(1, 2, 3.5), any_length=("x", "y"), place=(52.5, 13.25)))
register("page", "generic model", Page[Address], Page[Address](items=[HOME], next="2"))
register("derived", "inheritance", Derived, Derived(id=1, name="n"))
register("anything", "schemas without a type", Anything, Anything(value={"a": [1]}, optional=None, obj={"k": 1}), Anything(value=None, optional="x", obj={}))
register("movie", "TypedDict, all optional", Movie, {"title": "Alien"}, {})
register("empty", "object without properties", Empty, Empty())
register("names", "array at the root", Names, Names(["a", "b"]))
register("json", "recursive union", Json, {"a": [1.5, None, {"b": True}]}, "text", None)
register("integer", "scalar at the root", int, 42)
register("optional", "nullable scalar at the root", Optional[str], None, "x")
register("mapping", "map at the root", dict[str, Address], {"h": HOME})


def untyped(data):
    return data


iii.register_function("pydantic::untyped", untyped, description="no schema")


def nothing(data: Closed) -> None:
    return None


iii.register_function("pydantic::nothing", nothing, description="null as the result", metadata={"construct": "null as the result"})

print("ready", flush=True)
sys.stdin.read()
os._exit(0)
