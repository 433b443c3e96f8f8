// A dashboard as Grafana's schema has it, with the three kinds of panels that ours are made of.
import type { Dashboard, RowPanel } from "@grafana/schema";
import type * as Heatmap from "@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen";
import type { PrometheusDataQuery } from "@grafana/schema/dist/esm/raw/composable/prometheus/dataquery/x/PrometheusDataQuery_types.gen";
import type * as Stat from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type * as TimeSeries from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

// In JSON a value of an enum is its text.
type Written<T> = T extends string
  ? `${T}`
  : T extends (infer Item)[]
    ? Written<Item>[]
    : T extends object
      ? { [Key in keyof T]: Written<T[Key]> }
      : T;

type AnyPanel = Extract<NonNullable<Dashboard["panels"]>[number], { targets?: unknown }>;
type Defaults = Omit<NonNullable<AnyPanel["fieldConfig"]>["defaults"], "custom">;

type Panel<Type, Options, Custom> = Omit<AnyPanel, "type" | "options" | "fieldConfig" | "targets"> & {
  type: Type;
  options: Options;
  fieldConfig: { defaults: Defaults & { custom?: Custom }; overrides: [] };
  targets: PrometheusDataQuery[];
};

type Panels =
  | RowPanel
  | Panel<"timeseries", TimeSeries.Options, TimeSeries.FieldConfig>
  | Panel<"stat", Stat.Options, never>
  | Panel<"heatmap", Heatmap.Options, Heatmap.FieldConfig>;

export type Board = Written<Omit<Dashboard, "panels"> & { panels: Panels[] }>;
