"""The class of every word of the picturebook world.

Each word has one, that in which it stands most often in the world's own sentences: `duck` is a noun although somebody
ducks under a door.
"""

from patchlens.picturebook.world import COLORS, KINDS, PLACES, THINGS, plural

__all__ = ["lexicon"]

_CLASSES = {
    "noun": """
        air airport antenna arms asphalt bag baker bakery band bank bars beak belt birds birthdays blade blades blanket
        blocks board body book books bottom bow box boy brim bulb butterflies button buttons cab cables cafe candy
        carpet carts case cherry children chimney chin chocolate city clapper closet cloud clouds coal coast cockpit
        coconuts collar color company computer concert cones cord core cotton counter country cream crumbs crust
        cushions dances danger day deck desk dinner doghouse door doors drawer dunes ears earth edge end engine envy
        evening exit eyes face fair farmer feet fence field fields fins fire fish flames flesh floor flour folds frame
        friends fringes frog front gap garage garden gate gears girl glass grain grass hair hall handle handlebar
        handles hands hay head hedges heel hem hill holes honey hooves horns hotel hours hull ice jewels juice keys kind
        king knot laces lake layers lead leaves left legs library lie light line lines lining loads loft logs lunch
        mallets man mane market mast matter meadow metal mice middle milk millstone moon morning moss motor mouth
        mouthpiece mud museum music nails name neck needles neighbor news night noon north nose numbers pair paper
        parties path pavement paws peaks pedals peel people petals picture piece pillars pillow pin places plan planks
        plum pocket poles police pond ponds post prices pumpkin question rails rain rest rhythm ribbon right rim rind
        river road rocks roll roof room roots ropes rose rug rule rungs sail sails sale sand school sea seat seats
        secret seeds shade shed shelf shell shells shelves ships shoes shop sign sill sister skin sky sleeves smell snow
        soil sole song songs spines spots spring stage stairs stalks station steel stem stems stick sticks stone stories
        story string strings stripes summer sun tail taxi teacher teeth test thought thumb tiles time tip toast toe
        tomatoes tones top tower towers town trunk trunks tunes tunnel twigs udder valley valves vase village wagons
        wall wallpaper walls water weather wheel wheels whiskers wind window windows wings winter wood wool word work
        workshop yard yarn zoo""",
    "proper noun": """
        anna ben clara david emma felix grace hugo ida jonas kira leo maya nils olga paul rosa sam sunday tess
        viktor""",
    "verb": """
        asked bear beat became began bloom bought bring call came carried carry catch celebrate clean climbed cook cross
        cut dance dig dreamed drew drive eat eaten faces falls feed felt find float fly follow followed forgot found
        gave give go gone grind guard happens hide honor hunt keep kept knew know known learn let lies likes live lived
        look lost made make missed move notice painted parked peeled play played plow points protect pull rained reach
        read reads ride ring rings said sang sat says see seen sees shared sit sleep spin split stands stay stayed stop
        swim tell ticking told travel tried turned waiting walk walked wanted warm warn watched wear wears went
        written""",
    "adjective": """
        awake back bare big bigger blinking brave bright busy calm checkered clear closed cold colored curious dark dry
        easy empty flat fresh full happy hard heavy high huge hungry large last living long loud low melted old open
        ordinary plowed pointed proud quiet raw rear round second sharp short shy small smooth snowy soft straight
        striped sweet tall thick thin tired webbed welcome wet wide wooden""",
    "adverb": """
        far here instead late never often once outdoors quite really slowly still today too usually very yesterday""",
    "function word": """
        a about above after against all an and any are around as at be because before behind below between both but by
        can cannot could down every everybody everything for from had has have i in inside into is it its itself like
        many may must my no nobody not of on our out over past some someone than that the their them there they this
        through to under until upon us was we what when who why will with yes you yourself""",
    "number": "one two three four six",
}
"""Those that no table of `world` classes by itself."""


def lexicon() -> dict[str, str]:
    """Word to class, for every word of the world's sentences in lower case, with the plural forms of its tables.

    Returns:
        "noun", "proper noun", "verb", "adjective", "adverb", "function word" or "number" for each word.
    """
    classes = {word: name for name, words in _CLASSES.items() for word in words.split()}
    classes |= dict.fromkeys(COLORS, "adjective")
    for noun in (*THINGS, *KINDS, *PLACES):
        classes |= {noun: "noun", plural(noun): "noun"}
    return classes
