"""The bill of materials (CycloneDX): packages, kernels and models, with licences and hashes."""

from __future__ import annotations

import hashlib
import re
import uuid
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.exception import CycloneDxException
from cyclonedx.model import (
    ExternalReference,
    ExternalReferenceType,
    HashAlgorithm,
    HashType,
    Property,
    XsUri,
)
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from edgerank.airgap.archive import TIME
from edgerank.airgap.contents import PackedBundle
from edgerank.airgap.wheels import Wheel

KERNELS = re.compile(r"edgerank/kernels/[^/]*edgerank_kernels\.(so|dylib|dll)")
URLS = {
    "homepage": ExternalReferenceType.WEBSITE,
    "source": ExternalReferenceType.VCS,
    "repository": ExternalReferenceType.VCS,
    "source code": ExternalReferenceType.VCS,
}


def bill_of_materials(
    version: str,
    wheels: Iterable[Wheel],
    needs: Mapping[str, set[str]],
    bundles: Sequence[PackedBundle],
) -> str:
    """Return the bill as JSON; the same contents give the same text.

    :param version: edgerank's
    :param needs: the files that the file of a wheel needs
    """
    wheels = list(wheels)
    contents = [wheel.sha256 for wheel in wheels] + [bundle.digest for bundle in bundles]
    digest = hashlib.sha256("\n".join(sorted(contents)).encode()).hexdigest()
    metadata = BomMetaData(
        timestamp=datetime.fromtimestamp(TIME, timezone.utc),
        component=Component(
            name="edgerank-pack", version=version, type=ComponentType.APPLICATION, bom_ref="pack"
        ),
    )
    packages = {wheel.path.name: _package(wheel) for wheel in wheels}
    components = [*packages.values(), *map(_model, bundles)]
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_OID, digest),
        metadata=metadata,
        components=components,
    )
    assert metadata.component is not None
    bom.register_dependency(metadata.component, components)
    for name, component in packages.items():
        bom.register_dependency(component, [packages[each] for each in sorted(needs.get(name, ()))])
    outputter = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6)
    return outputter.output_as_string(indent=2) + "\n"


def _package(wheel: Wheel) -> Component:
    return Component(
        name=wheel.name,
        version=wheel.version,
        type=ComponentType.LIBRARY,
        bom_ref=wheel.path.name,
        purl=PackageURL("pypi", None, wheel.name, wheel.version, {"file_name": wheel.path.name}),
        hashes=[_sha256(wheel.sha256)],
        licenses=_licences(wheel.license),
        external_references=_links(wheel),
        components=_kernels(wheel),
    )


def _kernels(wheel: Wheel) -> list[Component]:
    """Return the compiled kernels in edgerank's own wheel."""
    found: list[Component] = []
    if wheel.name == "edgerank":
        with zipfile.ZipFile(wheel.path) as file:
            for name in filter(KERNELS.fullmatch, sorted(file.namelist())):
                found.append(
                    Component(
                        name="edgerank-kernels",
                        version=wheel.version,
                        type=ComponentType.LIBRARY,
                        bom_ref=f"{wheel.path.name}/{name}",
                        hashes=[_sha256(hashlib.sha256(file.read(name)).hexdigest())],
                        licenses=_licences(wheel.license),
                    )
                )
    return found


def _model(bundle: PackedBundle) -> Component:
    return Component(
        name=bundle.name,
        version=bundle.digest[:12],
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"models/{bundle.name}",
        hashes=[_sha256(bundle.digest)],
        licenses=_licences(bundle.license),
        properties=[
            Property(name="edgerank:source", value=bundle.model),
            Property(name="edgerank:revision", value=bundle.revision or "unknown"),
        ],
    )


def _links(wheel: Wheel) -> list[ExternalReference]:
    links = dict(wheel.metadata.get("project_urls", {}))
    if "home_page" in wheel.metadata:
        links.setdefault("homepage", wheel.metadata["home_page"])
    kinds = {label.lower(): url for label, url in links.items() if label.lower() in URLS}
    return [
        ExternalReference(type=URLS[label], url=XsUri(url)) for label, url in sorted(kinds.items())
    ]


def _licences(words: str | None) -> list[DisjunctiveLicense | LicenseExpression]:
    if words is None:
        return []
    try:
        return [LicenseFactory().make_from_string(words)]
    except CycloneDxException:
        return [DisjunctiveLicense(name=words)]


def _sha256(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)
