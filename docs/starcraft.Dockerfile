# StarCraft II 4.10 with smacv2, its maps and maicc. This file has never been built or run.
#
# Blizzard's archive of the game is locked. Its password stands in Blizzard's licence for AI and
# machine learning (https://github.com/Blizzard/s2client-proto), and typing it accepts the licence.
# Whether you may is yours to decide, so the password is not in this file:
#
#     docker build -f docs/starcraft.Dockerfile --build-arg PASSWORD=... -t maicc-starcraft .
#     docker run maicc-starcraft maicc doctor
FROM python:3.11-slim
ARG PASSWORD
ENV SC2PATH=/opt/StarCraftII PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python

RUN apt-get update \
    && apt-get install -y --no-install-recommends curl git unzip \
    && rm -rf /var/lib/apt/lists/*

RUN test -n "$PASSWORD" || { echo "read the licence, then give --build-arg PASSWORD=..."; exit 1; }
RUN curl -fsSL -o /tmp/game.zip https://blzdistsc2-a.akamaihd.net/Linux/SC2.4.10.zip \
    && unzip -q -P "$PASSWORD" /tmp/game.zip -d /opt \
    && rm /tmp/game.zip
RUN curl -fsSL -o /tmp/maps.zip \
        https://github.com/oxwhirl/smacv2/releases/download/maps/SMAC_Maps.zip \
    && mkdir -p "$SC2PATH/Maps" \
    && unzip -q /tmp/maps.zip -d "$SC2PATH/Maps" \
    && rm /tmp/maps.zip

WORKDIR /maicc
COPY . .
RUN pip install --no-cache-dir -c constraints.txt torch \
    && pip install --no-cache-dir -c constraints.txt ".[cpu,smac]" \
    && pip install --no-cache-dir --no-deps git+https://github.com/oxwhirl/smacv2
CMD ["maicc", "tasks"]
