"""What exists in the picturebook world: things, places, colors and the words on its signs.

Only tables and the grammar of single words; how things are drawn is in `scene.py`, what is said of them in
`language.py`.
"""

from dataclasses import dataclass
from typing import Literal

__all__ = ["COLORS", "KINDS", "PLACES", "SIGN_WORDS", "THINGS", "Place", "Thing", "indefinite", "kind_of", "plural"]

Kind = Literal["animal", "plant", "food", "vehicle", "building", "tool", "garment", "toy", "furniture", "instrument"]

COLORS: dict[str, str] = {
    "red": "#d6402f",
    "orange": "#f0882a",
    "yellow": "#f4cf3a",
    "green": "#4fa34a",
    "blue": "#3f74c9",
    "purple": "#8a56b5",
    "pink": "#f090b4",
    "brown": "#8d5a35",
    "black": "#3a3a42",
    "white": "#f7f6f1",
    "gray": "#9a9ea6",
}
"""The colors a recolorable thing can take, as the hex value of its main surface."""

_PAINT = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "black", "gray")
_FUR = ("black", "white", "gray", "brown", "orange")


@dataclass(frozen=True)
class Thing:
    """One everyday object of the world."""

    name: str
    """The noun; also the name of its drawing in `objects/`."""

    kind: Kind
    """What it is a kind of."""

    colors: tuple[str, ...]
    """Colors it comes in; a single one is its usual color and is not mentioned in captions."""

    parts: tuple[str, ...]
    """Things it has."""

    use: str
    """What it is for or what it does, after "to" (`"carry people"`)."""

    found: tuple[str, ...]
    """Where it is usually found, with the preposition."""

    rare: bool = False
    """Drawn and spoken of less often, so that its noun is several tokens."""

    @property
    def recolorable(self) -> bool:
        """Whether scenes give it one of several colors."""
        return len(self.colors) > 1


def _things(kind: Kind, rows: str) -> list[Thing]:
    """Parse one kind's table: `name | colors | parts | use | found`, rare names marked by a `*`."""
    palettes = {"PAINT": _PAINT, "FUR": _FUR}
    things = []
    for row in rows.strip().splitlines():
        name, colors, parts, use, found = (cell.strip() for cell in row.split("|"))
        things.append(
            Thing(
                name=name.rstrip("*"),
                kind=kind,
                colors=palettes.get(colors) or tuple(colors.split()),
                parts=tuple(part.strip() for part in parts.split(",")),
                use=use,
                found=tuple(where.strip() for where in found.split(",")),
                rare=name.endswith("*"),
            )
        )
    return things


_TABLES: dict[Kind, str] = {
    "animal": """
        cat      | FUR    | whiskers, soft paws, a long tail  | catch mice          | in the house, on the wall
        dog      | FUR    | a wet nose, four legs, a tail     | guard the house     | in the yard, in the park
        horse    | brown black white gray | a mane, four hooves, a long face | pull carts | on the farm, in the meadow
        cow      | white  | horns, an udder, black spots      | give milk           | on the farm, in the meadow
        rabbit   | white gray brown black | long ears, a short tail | dig holes     | in the meadow, in the forest
        duck     | yellow | webbed feet, a flat beak, wings   | swim on ponds       | on the pond, in the park
        owl      | brown  | round eyes, a sharp beak, wings   | hunt at night       | in the forest, in old barns
        turtle*  | green  | a hard shell, short legs          | walk slowly         | on the beach, in the pond
    """,
    "plant": """
        tree      | green  | leaves, a trunk, roots            | give shade         | in the park, in the forest
        pine      | green  | needles, cones, a straight trunk  | stay green in winter | on the mountain, in the forest
        palm      | green  | long leaves, a thin trunk         | bear coconuts      | on the beach, in the desert
        cactus*   | green  | sharp spines, thick stems         | keep water         | in the desert, on the window sill
        tulip*    | red yellow pink purple orange white | a green stem, smooth petals | bloom in spring | in the garden, in a vase
        sunflower*| yellow | big seeds, a tall stem, petals    | follow the sun     | in the field, in the garden
        wheat     | yellow | ears of grain, thin stalks        | make flour         | in the field, on the farm
        bush      | green  | small leaves, many twigs          | hide birds         | in the park, in the garden
    """,
    "food": """
        apple   | red green yellow | a core, a stem, smooth skin | be eaten raw       | in the kitchen, on the market
        banana  | yellow | a thick peel, soft flesh            | be peeled and eaten | in the kitchen, on the market
        pear    | green yellow brown | a stem, sweet juice, small seeds | be eaten raw | in the garden, in the kitchen
        bread   | brown  | a crust, soft crumbs                | make toast          | in the bakery, in the kitchen
        cheese  | yellow | small holes, a hard rind            | go on bread         | in the kitchen, on the market
        carrot  | orange | green leaves, a thin tip            | feed rabbits        | in the garden, in the kitchen
        cake    | pink   | cream, layers, a cherry on top      | celebrate birthdays | in the bakery, on the table
        pizza*  | orange | melted cheese, a crust, tomatoes    | be shared with friends | in the kitchen, at parties
    """,
    "vehicle": """
        car      | PAINT | four wheels, two doors, an engine   | drive to work      | on the street, in the garage
        bus      | PAINT | many seats, big windows, wheels     | carry many people  | on the street, at the station
        truck    | PAINT | a large bed, big wheels, a cab      | carry heavy loads  | on the street, on the farm
        boat     | PAINT | a sail, a mast, a hull              | cross the water    | in the harbor, on the sea
        bicycle* | PAINT | two wheels, pedals, a bell          | ride through town  | on the street, in the park
        train    | PAINT | a chimney, wagons, steel wheels     | travel on rails    | at the station, in the valley
        airplane | PAINT | two wings, a tail, a cockpit        | fly over the clouds | in the sky, at the airport
        tractor* | red green blue orange yellow | huge rear wheels, a seat, a motor | plow fields | on the farm, in the field
    """,
    "building": """
        house      | PAINT | a roof, a door, walls, windows    | live in            | on the street, in the village
        castle     | gray  | thick walls, towers, a gate       | protect the king   | on the hill, in old stories
        barn       | red brown white gray | a wide door, a hay loft | keep hay dry    | on the farm, in the country
        lighthouse*| white | a bright lamp, red stripes, stairs | warn ships        | on the coast, in the harbor
        windmill*  | white | four sails, a millstone           | grind grain        | on the hill, in the field
        tent       | PAINT | poles, ropes, thin walls          | sleep outdoors     | in the forest, on the mountain
        igloo*     | white | blocks of snow, a low tunnel      | stay warm in the ice | in the far north, on the ice
        bridge     | orange | tall pillars, steel cables, a deck | cross the river    | over the river, in the city
    """,
    "tool": """
        hammer      | gray  | a heavy head, a wooden handle    | drive nails        | in the workshop, in the tool box
        saw         | gray  | sharp teeth, a handle            | cut wood           | in the workshop, in the shed
        shovel      | gray  | a blade, a long handle           | dig holes          | in the garden, in the shed
        ladder      | brown | many rungs, two rails            | reach high places  | in the barn, against the wall
        bucket      | PAINT | a handle, a round rim            | carry water        | in the garden, on the beach
        scissors*   | red blue green orange purple yellow | two blades, two rings | cut paper | in the drawer, on the desk
        axe         | gray  | a sharp edge, a long handle      | split logs         | in the forest, in the shed
        wheelbarrow*| red green blue orange yellow gray | one wheel, two handles | move earth | in the garden, on the farm
    """,
    "garment": """
        hat     | PAINT | a brim, a ribbon                      | shade the eyes     | on the head, in the closet
        shirt   | PAINT | a collar, sleeves, buttons            | wear to work       | in the closet, on the line
        boot    | red yellow green blue brown black | a heel, laces, a thick sole | walk through mud | by the door, on the farm
        scarf   | PAINT | fringes, soft wool                    | warm the neck      | around the neck, in the closet
        mitten* | red blue green purple pink white | a thumb, warm lining | warm the hands | in the pocket, in the snow
        dress   | PAINT | a hem, a belt, short sleeves          | dance in           | in the closet, at parties
        sock    | PAINT | a heel, a toe, soft wool              | warm the feet      | in the drawer, on the line
        crown*  | yellow | jewels, sharp points                 | honor a king       | in the castle, on the head
    """,
    "toy": """
        ball     | PAINT | a round skin, air inside              | play catch         | in the park, on the beach
        kite     | PAINT | a tail, a long string, thin sticks    | fly in the wind    | in the sky, on the beach
        robot    | PAINT | a metal body, an antenna, blinking eyes | walk by itself   | on the shelf, in the toy shop
        balloon  | red orange yellow green blue purple pink | a string, a thin skin, a knot | float in the air | at parties, in the sky
        rocket   | red blue green orange purple white | fins, a pointed nose, flames | fly to the moon | in the sky, in the toy shop
        doll     | red blue green pink purple yellow | yarn hair, button eyes, a dress | play house | in the bedroom, in the toy shop
        scooter* | red blue green pink orange purple | two wheels, a handlebar | roll down the street | on the street, in the park
        pinwheel*| red    | four blades, a stick, a pin          | spin in the wind   | in the garden, at the fair
    """,
    "furniture": """
        chair    | PAINT | four legs, a back, a seat             | sit on             | in the kitchen, at the desk
        table    | brown | four legs, a flat top                 | eat dinner         | in the kitchen, in the garden
        lamp     | PAINT | a bulb, a shade, a cord               | light the room     | in the bedroom, on the desk
        bed      | red blue green pink purple white | a pillow, a blanket, a frame | sleep in | in the bedroom, in the hotel
        clock    | red blue green orange purple white | two hands, numbers, small gears | tell the time | on the wall, in the tower
        sofa     | PAINT | cushions, two arms, short legs        | rest on            | in the living room, in the hotel
        bookcase*| brown | shelves, a back wall, many books      | keep books         | in the library, in the bedroom
        mirror*  | yellow | a frame, smooth glass                | see yourself       | in the bedroom, on the wall
    """,
    "instrument": """
        drum       | red blue green yellow orange white | a skin, a rim, two sticks | beat a rhythm | in the band, on the stage
        guitar     | red blue brown black orange white | six strings, a neck, a body | play songs | on the stage, in the music school
        trumpet*   | yellow | three valves, a mouthpiece          | play loud tunes    | in the band, on the stage
        violin     | brown | four strings, a bow, a chin rest     | play soft tunes    | in the concert hall, in its case
        piano      | black | white keys, black keys, three pedals | play with both hands | in the living room, on the stage
        accordion* | red blue green black white | folds, buttons, small keys | play at dances | in the village, on the stage
        xylophone* | orange | colored bars, two mallets           | ring bright tones  | in the music school, in the toy shop
        bell       | yellow | a clapper, a round mouth            | call people        | in the tower, on the door
    """,
}  # fmt: skip

THINGS: dict[str, Thing] = {thing.name: thing for kind, rows in _TABLES.items() for thing in _things(kind, rows)}
"""Every thing by its noun, in a fixed order."""

KINDS: tuple[Kind, ...] = tuple(_TABLES)
"""The kinds, in the order of the tables."""


@dataclass(frozen=True)
class Place:
    """Where a scene plays; its background drawing is in `places/`."""

    name: str
    """The noun."""

    at: str
    """The place as the end of a sentence (`"on a beach"`)."""

    features: tuple[str, ...]
    """What the background shows."""


PLACES: dict[str, Place] = {
    place.name: place
    for place in (
        Place("park", "in a park", ("green grass", "a path", "low hedges")),
        Place("beach", "on a beach", ("yellow sand", "blue water", "small shells")),
        Place("street", "on a street", ("gray asphalt", "white lines", "a pavement")),
        Place("kitchen", "in a kitchen", ("white tiles", "a counter", "a checkered floor")),
        Place("forest", "in a forest", ("dark trunks", "moss", "green shade")),
        Place("farm", "on a farm", ("plowed fields", "a wooden fence", "brown soil")),
        Place("mountain", "on a mountain", ("snowy peaks", "bare rocks", "cold air")),
        Place("desert", "in a desert", ("sand dunes", "an orange sky", "dry air")),
        Place("bedroom", "in a bedroom", ("striped wallpaper", "a soft rug", "a window")),
        Place("harbor", "in a harbor", ("wooden planks", "calm water", "an evening sky")),
    )
}

SIGN_WORDS: tuple[str, ...] = (
    "bakery", "school", "zoo", "hotel", "market", "library", "museum", "garage",
    "cafe", "bank", "station", "exit", "stop", "open", "closed", "sale",
    "danger", "welcome", "police", "music", "books", "fish", "milk", "taxi",
    "post", "shoes",
)  # fmt: skip
"""Words that signs show; none of them is a thing, a color or a place."""


def kind_of(thing: str) -> Kind:
    """The kind of a thing by its noun."""
    return THINGS[thing].kind


def indefinite(phrase: str) -> str:
    """The phrase with "a" or "an" before it; plurals-only nouns take "a pair of"."""
    if phrase.endswith("scissors"):
        return f"a pair of {phrase}"
    if phrase.endswith("wheat"):
        return f"some {phrase}"
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def plural(noun: str) -> str:
    """The plural of a thing's or a kind's noun."""
    if noun in ("scissors", "wheat", "furniture", "food"):
        return noun
    if noun == "cactus":
        return "cacti"
    if noun == "scarf":
        return "scarves"
    if noun.endswith(("s", "x", "sh", "ch")):
        return f"{noun}es"
    return f"{noun}s"
