"""The photographs that `photographs` learned from: desktop pictures of Debian packages, reduced.

    apt-get download budgie-backgrounds mate-backgrounds plasma-workspace-wallpapers \\
        lomiri-wallpapers-16.04 lomiri-wallpapers-20.04
    for package in *.deb; do dpkg-deb -x $package unpacked; done
    python -m benchmarks.photographs unpacked pictures

They are freely licensed, as usr/share/doc/*/copyright of the packages says:

    budgie-backgrounds 3.0-1                       CC0-1.0
    mate-backgrounds 1.26.0-1                      GPL-2+
    plasma-workspace-wallpapers 4:6.3.4-1          GPL-2+
    lomiri-wallpapers-16.04, -20.04, 20.04.0-4     CC0-1.0, CC-BY-4.0, CC-BY-SA-3.0, CC-BY-SA-4.0

Each is reduced by a whole number, each new pixel the mean of its square, so that hardly a trace of
JPEG is left.
"""

import sys
from pathlib import Path

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
    """Write the reduced pictures into the folders train, valid and test of `out`."""
    from PIL import Image

    part = out
    for line in PICTURES.split("\n"):
        match line.split():
            case [name]:
                part = out / name
                part.mkdir(parents=True)
            case [factor, path]:
                source = unpacked / "usr/share" / path
                name = source.stem if "contents" not in source.parts else source.parts[-4]
                picture = Image.open(source).convert("RGB").reduce(int(factor))
                picture.save(part / f"{name.lower()}.webp", lossless=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
