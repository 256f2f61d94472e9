"""The photographs that `photographs` learned from: desktop pictures of Debian packages, reduced.

    for package in *.deb; do dpkg-deb -x $package unpacked; done
    python -m benchmarks.photographs unpacked pictures

writes pictures/first, with which it began, and pictures/all. Both hold the same photographs out.
The packages, freely licensed, as usr/share/doc/*/copyright of each says:

    budgie-backgrounds 3.0-1, and 4.2-1 for its jxl        CC0-1.0
    gnome-backgrounds 3.38.0-1                             CC-BY-SA-3.0, GPL-2+
    krank 0.7+dfsg2-5                                      public domain
    lomiri-wallpapers-16.04, -20.04, 20.04.0-4             CC0-1.0, CC-BY-4.0, CC-BY-SA-3.0, -4.0
    lxqt-themes 2.1.0-1                                    LGPL-2.1+, CC-BY-SA-3.0
    mate-backgrounds 1.26.0-1                              GPL-2+
    palapeli-data 4:25.04.0-1                              GPL-2+, GFDL, public domain
    plasma-workspace-wallpapers 4:6.3.4-1                  GPL-2+
    ukui-wallpapers 20.04.4-1                              CC-BY-SA-3.0

Each is reduced by a whole number, each new pixel the mean of its square, so that hardly a trace of
JPEG is left. JPEG XL is read by imagecodecs.
"""

import sys
from pathlib import Path
from typing import Any

# The parts, and in each by how much each picture of usr/share is reduced.
PICTURES = """
train
    4 backgrounds/Bridge_by_Sander_Klootwijk.jpg
    4 backgrounds/Dragonfly_by_Bolly.jpg
    5 backgrounds/Kleiber_by_Lukas_Baubkus.jpg
    2 backgrounds/Picture_0B_by_freespace.jpg
    2 backgrounds/Picture_1A_by_freespace.jpg
    3 backgrounds/budgie/beacon-street-sunset.jpg
    3 backgrounds/budgie/canyon-wren.jpg
    3 backgrounds/budgie/casa-mila.jpg
    3 backgrounds/budgie/extreme-desert-hike.jpg
    3 backgrounds/budgie/piazza-gae-aulenti.jpg
    3 backgrounds/budgie/singaporean-cityscape.jpg
    3 backgrounds/budgie/tea-gardens.jpg
    3 backgrounds/free_by_Peter_Nerlich.jpg
    3 backgrounds/friends_by_Aitzol_Berasategi.jpg
    3 backgrounds/greentock_by_Peter_Nerlich.jpg
    2 backgrounds/mate/nature/Aqua.jpg
    2 backgrounds/mate/nature/Blinds.jpg
    2 backgrounds/mate/nature/FreshFlower.jpg
    2 backgrounds/mate/nature/LadyBird.jpg
    2 backgrounds/mate/nature/Storm.jpg
    2 backgrounds/mate/nature/TwoWings.jpg
    2 backgrounds/mate/nature/YellowFlower.jpg
    3 backgrounds/picosdeeuropa_by_Aitzol_Berasategi.jpg
    5 backgrounds/seeding_by_Clements_Engelhardt.jpg
    4 backgrounds/sunset_by_Aitzol_Berasategi.jpg
    2 wallpapers/BytheWater/contents/images/2560x1440.jpg
    2 wallpapers/ColdRipple/contents/images/2560x1440.jpg
    2 wallpapers/ColorfulCups/contents/images/2560x1600.jpg
    2 wallpapers/Grey/contents/images/2560x1440.jpg
    2 wallpapers/OneStandsOut/contents/images/2560x1440.jpg
    2 wallpapers/Path/contents/images/2560x1440.jpg
more
    2 backgrounds/gnome/Dark_Ivy.jpg
    4 backgrounds/gnome/ColdWarm.jpg
    4 backgrounds/gnome/Icetwigs.jpg
    6 backgrounds/gnome/LightWaves.jpg
    3 backgrounds/gnome/Road.jpg
    5 backgrounds/gnome/SeaSunset.jpg
    3 backgrounds/bluebird.jpg
    3 backgrounds/bridgecity.jpg
    3 backgrounds/bridgecity2.jpg
    3 backgrounds/flamingos.jpg
    3 backgrounds/horse.jpg
    3 backgrounds/house.jpg
    3 backgrounds/look.jpg
    3 backgrounds/mountain-range.jpg
    3 backgrounds/mountain.jpg
    3 backgrounds/mountain2.jpg
    3 backgrounds/planet-ascending.jpg
    3 backgrounds/sea.jpg
    3 backgrounds/sky.jpg
    3 backgrounds/snowy-mountains.jpg
    3 backgrounds/still-life.jpg
    3 backgrounds/sunf.jpg
    3 backgrounds/budgie/lake-sherburne.jpg
    3 backgrounds/budgie/perched-osprey.jpg
    3 backgrounds/budgie/roman-colosseum.jpg
    3 backgrounds/budgie/perched-shrike.jxl
    3 backgrounds/budgie/pondering-heron.jxl
    3 backgrounds/budgie/sunning-anhinga.jxl
    3 backgrounds/budgie/the-spices-of-life.jxl
    3 backgrounds/aitzgorri_by_Aitzol_Berasategi.jpg
    3 backgrounds/life_by_Aitzol_Berasategi.jpg
    2 backgrounds/mate/nature/Dune.jpg
    2 wallpapers/EveningGlow/contents/images/2560x1600.jpg
    2 wallpapers/FallenLeaf/contents/images/2560x1600.jpg
    2 wallpapers/summer_1am/contents/images/2560x1600.jpg
    5 wallpapers/Volna/contents/images/5120x2880.jpg
    2 lxqt/wallpapers/Valendas.png
    3 lxqt/wallpapers/after-the-rain.jpg
    3 lxqt/wallpapers/appleflower.png
    2 lxqt/wallpapers/beam.png
    3 lxqt/wallpapers/butterfly.png
    2 lxqt/wallpapers/cloud.png
    2 lxqt/wallpapers/drop.png
    3 lxqt/wallpapers/flowers.png
    2 lxqt/wallpapers/fog.jpg
    2 lxqt/wallpapers/this-is-not-windows.jpg
    2 palapeli/collection/castle-maintenon.jpg
    2 palapeli/collection/cincinnati-bridge.jpg
    2 palapeli/collection/citrus-fruits.jpg
    2 palapeli/collection/european-honey-bee.jpg
    2 palapeli/collection/panther-chameleon-female.jpg
    2 games/krank/levels/unera-backgrounds/level-02.jpg
    2 games/krank/levels/unera-backgrounds/level-04.jpg
    2 games/krank/levels/unera-backgrounds/level-06.jpg
    2 games/krank/levels/unera-backgrounds/level-08.jpg
    2 games/krank/levels/unera-backgrounds/level-10.jpg
    2 games/krank/levels/unera-backgrounds/level-12.jpg
    2 games/krank/levels/unera-backgrounds/level-14.jpg
    2 games/krank/levels/unera-backgrounds/level-16.jpg
    2 games/krank/levels/unera-backgrounds/level-18.jpg
    2 games/krank/levels/unera-backgrounds/level-20.jpg
    2 games/krank/levels/unera-backgrounds/level-22.jpg
    2 games/krank/levels/unera-backgrounds/level-24.jpg
    2 games/krank/levels/unera-backgrounds/level-26.jpg
    2 games/krank/levels/unera-backgrounds/level-28.jpg
    2 games/krank/levels/unera-backgrounds/level-30.jpg
    2 games/krank/levels/unera-backgrounds/menu.jpg
    2 games/krank/levels/unera-backgrounds/menu-play.jpg
    2 games/krank/levels/unera-backgrounds/menu-scores2.jpg
valid
    2 backgrounds/mate/nature/Garden.jpg
    2 wallpapers/Kite/contents/images/2560x1440.jpg
    5 wallpapers/Mountain/contents/images/5120x2880.png
test
    3 backgrounds/Wine_by_Jakkub_Mede.jpg
    3 backgrounds/budgie/blue-periwinkle.jpg
    3 backgrounds/budgie/oakland-zoo-otters.jpg
    2 backgrounds/mate/nature/GreenMeadow.jpg
    2 backgrounds/mate/nature/RainDrops.jpg
    2 wallpapers/DarkestHour/contents/images/2560x1440.jpg
"""


def main(unpacked: Path, out: Path) -> None:
    """Write the reduced pictures: train, valid and test of out/first and of out/all."""
    parts: list[Path] = []
    for line in PICTURES.split("\n"):
        match line.split():
            case ["more"]:
                parts = [out / "all" / "train"]
            case [name]:
                parts = [out / which / name for which in ("first", "all")]
                for part in parts:
                    part.mkdir(parents=True)
            case [factor, path]:
                source = unpacked / "usr/share" / path
                name = source.stem if "contents" not in source.parts else source.parts[-4]
                picture = read(source).reduce(int(factor))
                for part in parts:
                    picture.save(part / f"{name.lower()}.webp", lossless=True)


def read(file: Path) -> Any:
    """A picture, as PIL has it, in colour."""
    from PIL import Image

    if file.suffix == ".jxl":
        import imagecodecs

        return Image.fromarray(imagecodecs.imread(str(file))[..., :3])
    return Image.open(file).convert("RGB")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
