"""Settings that a registry answers for.

Chosen: a setting whose class is told by one of its own keys, such as `record: {kind: sampled, …}`.
Known: a setting that is a name alone, such as `backend: zarr`.

Which classes there are a registry says when the setting is read, so that a user's own kinds are read like built-in
ones. The faults of the chosen class reach the reader of the file with their place (kdcache.config.file).
"""

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError, core_schema

from kdcache.near import did_you_mean
from kdcache.registry import Registry

__all__ = ["Chosen", "Known"]


class Chosen:
    """Metadata of an annotation: `Annotated[Base, Chosen(registry, "kind", settings_of, default="sampled")]`.

    key: of the mapping, whose value names the kind. settings_of: kind -> its class of settings, which has a field of
    that key. default: of the key, where the mapping does not have it.
    """

    def __init__(
        self,
        registry: Registry[Any],
        key: str,
        settings_of: Callable[[Any], type[BaseModel]] = lambda kind: kind,
        default: str | None = None,
    ) -> None:
        self.registry, self.key, self.default = registry, key, default
        self._settings_of = settings_of

    def classes(self) -> list[type[BaseModel]]:
        return [self._settings_of(self.registry[name]) for name in self.registry]

    def class_of(self, data: Any) -> type[BaseModel] | None:
        """The class that a mapping's key names; None where it names none."""
        name = data.get(self.key, self.default) if isinstance(data, dict) else None
        known = isinstance(name, str) and name in self.registry
        return self._settings_of(self.registry[str(name)]) if known else None

    def parse(self, data: Any) -> BaseModel:
        if isinstance(data, BaseModel):
            return data
        if not isinstance(data, dict):
            raise ValueError(f"got {data!r}, expected a mapping such as {{{self.key}: {next(iter(self.registry))}}}")
        cls = self.class_of(data)
        if cls is None:
            name = data.get(self.key)
            known = did_you_mean(name, self.registry) or f"; expected one of {', '.join(self.registry)}"
            raise ValueError(f"got {self.key} {name}{known}" if self.key in data else f"got no {self.key}{known}")
        try:
            return cls.model_validate({self.key: self.default, **data} if self.default else data)
        except ValidationError as error:
            faults = error.errors()
            where = ".".join(str(part) for part in faults[0]["loc"])
            message = faults[0]["msg"].removeprefix("Value error, ")
            found = {"faults": faults, "cls": cls, "message": f"{where}: {message}" if where else message}
            raise PydanticCustomError("chosen", "{message}", found) from None

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: Any) -> dict[str, Any]:
        """One of the built-in classes, or a mapping that names another one."""
        names = self.registry.built_in
        classes = [self._settings_of(self.registry[name]) for name in names]
        of_a_users_own = {"properties": {self.key: {"type": "string", "not": {"enum": names}}}, "required": [self.key]}
        return {
            "anyOf": [*(handler(cls.__pydantic_core_schema__) for cls in classes), {"type": "object"} | of_a_users_own]
        }

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.parse,
            serialization=core_schema.plain_serializer_function_ser_schema(_dumped, info_arg=True),
        )


def _dumped(value: BaseModel, info: Any) -> Any:
    return value.model_dump(mode=info.mode, exclude_none=info.exclude_none, exclude_unset=info.exclude_unset)


class Known:
    """Metadata of an annotation: `Annotated[str, Known(registry)]`, a name that the registry has."""

    def __init__(self, registry: Registry[Any]) -> None:
        self.registry = registry

    def check(self, name: str) -> str:
        if name not in self.registry:
            raise ValueError(self.registry.unknown(name))
        return name

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))
