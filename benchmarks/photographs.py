"""The training data of `photos-full`: desktop pictures of Debian packages, reduced.

    for package in *.deb; do dpkg-deb -x $package unpacked; done
    python -m benchmarks.photographs unpacked pictures

writes pictures/first, for the first trainings, and pictures/all. Validation and test are equal.
The packages and their licenses (usr/share/doc/*/copyright):

    budgie-backgrounds 3.0-1, and 4.2-1 for its jxl        CC0-1.0
    gnome-backgrounds 3.38.0-1                             CC-BY-SA-3.0, GPL-2+
    krank 0.7+dfsg2-5                                      public domain
    lomiri-wallpapers-16.04, -20.04, 20.04.0-4             CC0-1.0, CC-BY-4.0, CC-BY-SA-3.0, -4.0
    lxqt-themes 2.1.0-1                                    LGPL-2.1+, CC-BY-SA-3.0
    mate-backgrounds 1.26.0-1                              GPL-2+
    palapeli-data 4:25.04.0-1                              GPL-2+, GFDL, public domain
    plasma-workspace-wallpapers 4:6.3.4-1                  GPL-2+
    ukui-wallpapers 20.04.4-1                              CC-BY-SA-3.0

Each is reduced by a whole number, each new pixel the mean of a square, which removes nearly all
traces of JPEG. JPEG XL is read by imagecodecs.
"""

import sys
from pathlib import Path
from typing import Any

# The parts; in each the factor of reduction, the folder in usr/share, and its pictures.
PICTURES = """
train
    4 backgrounds Bridge_by_Sander_Klootwijk.jpg Dragonfly_by_Bolly.jpg
    4 backgrounds sunset_by_Aitzol_Berasategi.jpg
    5 backgrounds Kleiber_by_Lukas_Baubkus.jpg seeding_by_Clements_Engelhardt.jpg
    2 backgrounds Picture_0B_by_freespace.jpg Picture_1A_by_freespace.jpg
    3 backgrounds/budgie beacon-street-sunset.jpg canyon-wren.jpg casa-mila.jpg
    3 backgrounds/budgie extreme-desert-hike.jpg piazza-gae-aulenti.jpg
    3 backgrounds/budgie singaporean-cityscape.jpg tea-gardens.jpg
    3 backgrounds free_by_Peter_Nerlich.jpg friends_by_Aitzol_Berasategi.jpg
    3 backgrounds greentock_by_Peter_Nerlich.jpg picosdeeuropa_by_Aitzol_Berasategi.jpg
    2 backgrounds/mate/nature Aqua.jpg Blinds.jpg FreshFlower.jpg LadyBird.jpg Storm.jpg
    2 backgrounds/mate/nature TwoWings.jpg YellowFlower.jpg
    2 wallpapers BytheWater/contents/images/2560x1440.jpg
    2 wallpapers ColdRipple/contents/images/2560x1440.jpg
    2 wallpapers ColorfulCups/contents/images/2560x1600.jpg
    2 wallpapers Grey/contents/images/2560x1440.jpg
    2 wallpapers OneStandsOut/contents/images/2560x1440.jpg
    2 wallpapers Path/contents/images/2560x1440.jpg
more
    2 backgrounds/gnome Dark_Ivy.jpg
    4 backgrounds/gnome ColdWarm.jpg Icetwigs.jpg
    6 backgrounds/gnome LightWaves.jpg
    3 backgrounds/gnome Road.jpg
    5 backgrounds/gnome SeaSunset.jpg
    3 backgrounds bluebird.jpg bridgecity.jpg bridgecity2.jpg flamingos.jpg horse.jpg
    3 backgrounds house.jpg look.jpg mountain-range.jpg mountain.jpg mountain2.jpg
    3 backgrounds planet-ascending.jpg sea.jpg sky.jpg snowy-mountains.jpg still-life.jpg
    3 backgrounds sunf.jpg aitzgorri_by_Aitzol_Berasategi.jpg life_by_Aitzol_Berasategi.jpg
    3 backgrounds/budgie lake-sherburne.jpg perched-osprey.jpg roman-colosseum.jpg
    3 backgrounds/budgie perched-shrike.jxl pondering-heron.jxl sunning-anhinga.jxl
    3 backgrounds/budgie the-spices-of-life.jxl
    2 backgrounds/mate/nature Dune.jpg
    2 wallpapers EveningGlow/contents/images/2560x1600.jpg
    2 wallpapers FallenLeaf/contents/images/2560x1600.jpg
    2 wallpapers summer_1am/contents/images/2560x1600.jpg
    5 wallpapers Volna/contents/images/5120x2880.jpg
    2 lxqt/wallpapers Valendas.png beam.png cloud.png drop.png fog.jpg
    2 lxqt/wallpapers this-is-not-windows.jpg
    3 lxqt/wallpapers after-the-rain.jpg appleflower.png butterfly.png flowers.png
    2 palapeli/collection castle-maintenon.jpg cincinnati-bridge.jpg citrus-fruits.jpg
    2 palapeli/collection european-honey-bee.jpg panther-chameleon-female.jpg
    2 games/krank/levels/unera-backgrounds level-02.jpg level-04.jpg level-06.jpg
    2 games/krank/levels/unera-backgrounds level-08.jpg level-10.jpg level-12.jpg
    2 games/krank/levels/unera-backgrounds level-14.jpg level-16.jpg level-18.jpg
    2 games/krank/levels/unera-backgrounds level-20.jpg level-22.jpg level-24.jpg
    2 games/krank/levels/unera-backgrounds level-26.jpg level-28.jpg level-30.jpg menu.jpg
    2 games/krank/levels/unera-backgrounds menu-play.jpg menu-scores2.jpg
valid
    2 backgrounds/mate/nature Garden.jpg
    2 wallpapers Kite/contents/images/2560x1440.jpg
    5 wallpapers Mountain/contents/images/5120x2880.png
test
    3 backgrounds Wine_by_Jakkub_Mede.jpg
    3 backgrounds/budgie blue-periwinkle.jpg oakland-zoo-otters.jpg
    2 backgrounds/mate/nature GreenMeadow.jpg RainDrops.jpg
    2 wallpapers DarkestHour/contents/images/2560x1440.jpg
"""


def main(unpacked: Path, out: Path) -> None:
    """Write the reduced pictures: train, valid and test of out/first and of out/all."""
    parts: list[Path] = []
    for line in PICTURES.splitlines():
        match line.split():
            case ["more"]:
                parts = [out / "all" / "train"]
            case [name]:
                parts = [out / which / name for which in ("first", "all")]
                for part in parts:
                    part.mkdir(parents=True)
            case [factor, folder, *files]:
                for file in files:
                    name = file.partition("/")[0] if "/" in file else Path(file).stem
                    picture = read(unpacked / "usr/share" / folder / file).reduce(int(factor))
                    for part in parts:
                        picture.save(part / f"{name.lower()}.webp", lossless=True)


def read(file: Path) -> Any:
    """A picture in color."""
    from PIL import Image

    if file.suffix == ".jxl":
        import imagecodecs

        return Image.fromarray(imagecodecs.imread(str(file))[..., :3])
    return Image.open(file).convert("RGB")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
