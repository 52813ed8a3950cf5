package recorded_test

import (
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/cmd/iiigen/internal/recorded/own"
)

var update = flag.Bool("update", false, "write the catalogue of the package's own types; run iiigen afterwards")

// ownCatalog is the catalogue of functions whose types are those of package iii.
const ownCatalog = "own/iiigen_catalog.json"

// ownType is a data type of package iii, with the types that were generated from its schemas.
type ownType struct {
	name                string
	own, in, out        reflect.Type
	serveOwn, serveMade func(*iii.Client) (*iii.Function, error)
}

func pair[Own, In, Out any](name string) ownType {
	return ownType{name, reflect.TypeFor[Own](), reflect.TypeFor[In](), reflect.TypeFor[Out](),
		func(c *iii.Client) (*iii.Function, error) { return iii.Handle(c, "own::"+name, reply[Own, Own]) },
		func(c *iii.Client) (*iii.Function, error) { return iii.Handle(c, "own::"+name, reply[In, Out]) }}
}

var ownTypes = []ownType{
	pair[iii.ActionEnqueue, own.ActionEnqueueInput, own.ActionEnqueueOutput]("ActionEnqueue"),
	pair[iii.ActionVoid, own.ActionVoidInput, own.ActionVoidOutput]("ActionVoid"),
	pair[iii.AggregatedMetric, own.AggregatedMetricInput, own.AggregatedMetricOutput]("AggregatedMetric"),
	pair[iii.AlertAction, own.AlertActionInput, own.AlertActionOutput]("AlertAction"),
	pair[iii.AlertRule, own.AlertRuleInput, own.AlertRuleOutput]("AlertRule"),
	pair[iii.AlertsEvaluateResult, own.AlertsEvaluateResultInput, own.AlertsEvaluateResultOutput]("AlertsEvaluateResult"),
	pair[iii.AlertsListResult, own.AlertsListResultInput, own.AlertsListResultOutput]("AlertsListResult"),
	pair[iii.AuthInput, own.AuthInputInput, own.AuthInputOutput]("AuthInput"),
	pair[iii.AuthResult, own.AuthResultInput, own.AuthResultOutput]("AuthResult"),
	pair[iii.BaggageGetAllResult, own.BaggageGetAllResultInput, own.BaggageGetAllResultOutput]("BaggageGetAllResult"),
	pair[iii.BaggageGetInput, own.BaggageGetInputInput, own.BaggageGetInputOutput]("BaggageGetInput"),
	pair[iii.BaggageGetResult, own.BaggageGetResultInput, own.BaggageGetResultOutput]("BaggageGetResult"),
	pair[iii.BaggageSetInput, own.BaggageSetInputInput, own.BaggageSetInputOutput]("BaggageSetInput"),
	pair[iii.BaggageSetResult, own.BaggageSetResultInput, own.BaggageSetResultOutput]("BaggageSetResult"),
	pair[iii.BridgeInvokeInput, own.BridgeInvokeInputInput, own.BridgeInvokeInputOutput]("BridgeInvokeInput"),
	pair[iii.ChannelCreateInput, own.ChannelCreateInputInput, own.ChannelCreateInputOutput]("ChannelCreateInput"),
	pair[iii.ChannelCreateResult, own.ChannelCreateResultInput, own.ChannelCreateResultOutput]("ChannelCreateResult"),
	pair[iii.ClearResult, own.ClearResultInput, own.ClearResultOutput]("ClearResult"),
	pair[iii.ConfigurationEntry, own.ConfigurationEntryInput, own.ConfigurationEntryOutput]("ConfigurationEntry"),
	pair[iii.ConfigurationEvent, own.ConfigurationEventInput, own.ConfigurationEventOutput]("ConfigurationEvent"),
	pair[iii.ConfigurationEventType, own.ConfigurationEventTypeInput, own.ConfigurationEventTypeOutput]("ConfigurationEventType"),
	pair[iii.ConfigurationGetInput, own.ConfigurationGetInputInput, own.ConfigurationGetInputOutput]("ConfigurationGetInput"),
	pair[iii.ConfigurationGetResult, own.ConfigurationGetResultInput, own.ConfigurationGetResultOutput]("ConfigurationGetResult"),
	pair[iii.ConfigurationListResult, own.ConfigurationListResultInput, own.ConfigurationListResultOutput]("ConfigurationListResult"),
	pair[iii.ConfigurationRegisterInput, own.ConfigurationRegisterInputInput, own.ConfigurationRegisterInputOutput]("ConfigurationRegisterInput"),
	pair[iii.ConfigurationSchema, own.ConfigurationSchemaInput, own.ConfigurationSchemaOutput]("ConfigurationSchema"),
	pair[iii.ConfigurationSchemaInput, own.ConfigurationSchemaInputInput, own.ConfigurationSchemaInputOutput]("ConfigurationSchemaInput"),
	pair[iii.ConfigurationSetInput, own.ConfigurationSetInputInput, own.ConfigurationSetInputOutput]("ConfigurationSetInput"),
	pair[iii.ConfigurationSetResult, own.ConfigurationSetResultInput, own.ConfigurationSetResultOutput]("ConfigurationSetResult"),
	pair[iii.ConfigurationTriggerConfig, own.ConfigurationTriggerConfigInput, own.ConfigurationTriggerConfigOutput]("ConfigurationTriggerConfig"),
	pair[iii.ConnectionState, own.ConnectionStateInput, own.ConnectionStateOutput]("ConnectionState"),
	pair[iii.CronEvent, own.CronEventInput, own.CronEventOutput]("CronEvent"),
	pair[iii.CronTriggerConfig, own.CronTriggerConfigInput, own.CronTriggerConfigOutput]("CronTriggerConfig"),
	pair[iii.DeadLetter, own.DeadLetterInput, own.DeadLetterOutput]("DeadLetter"),
	pair[iii.DeadLetterTopic, own.DeadLetterTopicInput, own.DeadLetterTopicOutput]("DeadLetterTopic"),
	pair[iii.DeadLettersInput, own.DeadLettersInputInput, own.DeadLettersInputOutput]("DeadLettersInput"),
	pair[iii.DurablePublishInput, own.DurablePublishInputInput, own.DurablePublishInputOutput]("DurablePublishInput"),
	pair[iii.EmptyInput, own.EmptyInputInput, own.EmptyInputOutput]("EmptyInput"),
	pair[iii.EngineInvocationMetrics, own.EngineInvocationMetricsInput, own.EngineInvocationMetricsOutput]("EngineInvocationMetrics"),
	pair[iii.EngineMetrics, own.EngineMetricsInput, own.EngineMetricsOutput]("EngineMetrics"),
	pair[iii.EnginePerformanceMetrics, own.EnginePerformanceMetricsInput, own.EnginePerformanceMetricsOutput]("EnginePerformanceMetrics"),
	pair[iii.EngineWorkerMetrics, own.EngineWorkerMetricsInput, own.EngineWorkerMetricsOutput]("EngineWorkerMetrics"),
	pair[iii.EnqueueResult, own.EnqueueResultInput, own.EnqueueResultOutput]("EnqueueResult"),
	pair[iii.ErrorBody, own.ErrorBodyInput, own.ErrorBodyOutput]("ErrorBody"),
	pair[iii.ErrorMessage, own.ErrorMessageInput, own.ErrorMessageOutput]("ErrorMessage"),
	pair[iii.FunctionDetail, own.FunctionDetailInput, own.FunctionDetailOutput]("FunctionDetail"),
	pair[iii.FunctionFilter, own.FunctionFilterInput, own.FunctionFilterOutput]("FunctionFilter"),
	pair[iii.FunctionInfoBatch, own.FunctionInfoBatchInput, own.FunctionInfoBatchOutput]("FunctionInfoBatch"),
	pair[iii.FunctionInfoEntry, own.FunctionInfoEntryInput, own.FunctionInfoEntryOutput]("FunctionInfoEntry"),
	pair[iii.FunctionInfoError, own.FunctionInfoErrorInput, own.FunctionInfoErrorOutput]("FunctionInfoError"),
	pair[iii.FunctionInfoInput, own.FunctionInfoInputInput, own.FunctionInfoInputOutput]("FunctionInfoInput"),
	pair[iii.FunctionSummary, own.FunctionSummaryInput, own.FunctionSummaryOutput]("FunctionSummary"),
	pair[iii.FunctionTrigger, own.FunctionTriggerInput, own.FunctionTriggerOutput]("FunctionTrigger"),
	pair[iii.FunctionsAvailableEvent, own.FunctionsAvailableEventInput, own.FunctionsAvailableEventOutput]("FunctionsAvailableEvent"),
	pair[iii.FunctionsAvailableTrigger, own.FunctionsAvailableTriggerInput, own.FunctionsAvailableTriggerOutput]("FunctionsAvailableTrigger"),
	pair[iii.FunctionsListResult, own.FunctionsListResultInput, own.FunctionsListResultOutput]("FunctionsListResult"),
	pair[iii.HTTPAuthAPIKey, own.HTTPAuthAPIKeyInput, own.HTTPAuthAPIKeyOutput]("HTTPAuthAPIKey"),
	pair[iii.HTTPAuthBearer, own.HTTPAuthBearerInput, own.HTTPAuthBearerOutput]("HTTPAuthBearer"),
	pair[iii.HTTPAuthConfig, own.HTTPAuthConfigInput, own.HTTPAuthConfigOutput]("HTTPAuthConfig"),
	pair[iii.HTTPAuthHMAC, own.HTTPAuthHMACInput, own.HTTPAuthHMACOutput]("HTTPAuthHMAC"),
	pair[iii.HTTPAuthType, own.HTTPAuthTypeInput, own.HTTPAuthTypeOutput]("HTTPAuthType"),
	pair[iii.HTTPInvocationConfig, own.HTTPInvocationConfigInput, own.HTTPInvocationConfigOutput]("HTTPInvocationConfig"),
	pair[iii.HTTPMethod, own.HTTPMethodInput, own.HTTPMethodOutput]("HTTPMethod"),
	pair[iii.HTTPMiddlewareAction, own.HTTPMiddlewareActionInput, own.HTTPMiddlewareActionOutput]("HTTPMiddlewareAction"),
	pair[iii.HTTPMiddlewareInput, own.HTTPMiddlewareInputInput, own.HTTPMiddlewareInputOutput]("HTTPMiddlewareInput"),
	pair[iii.HTTPMiddlewareRequest, own.HTTPMiddlewareRequestInput, own.HTTPMiddlewareRequestOutput]("HTTPMiddlewareRequest"),
	pair[iii.HTTPMiddlewareResponse, own.HTTPMiddlewareResponseInput, own.HTTPMiddlewareResponseOutput]("HTTPMiddlewareResponse"),
	pair[iii.HTTPMiddlewareResult, own.HTTPMiddlewareResultInput, own.HTTPMiddlewareResultOutput]("HTTPMiddlewareResult"),
	pair[iii.HTTPRequestTrigger, own.HTTPRequestTriggerInput, own.HTTPRequestTriggerOutput]("HTTPRequestTrigger"),
	pair[iii.HTTPTriggerConfig, own.HTTPTriggerConfigInput, own.HTTPTriggerConfigOutput]("HTTPTriggerConfig"),
	pair[iii.HealthComponent, own.HealthComponentInput, own.HealthComponentOutput]("HealthComponent"),
	pair[iii.HealthComponents, own.HealthComponentsInput, own.HealthComponentsOutput]("HealthComponents"),
	pair[iii.HealthReport, own.HealthReportInput, own.HealthReportOutput]("HealthReport"),
	pair[iii.HistogramDataPoint, own.HistogramDataPointInput, own.HistogramDataPointOutput]("HistogramDataPoint"),
	pair[iii.InvocationResultMessage, own.InvocationResultMessageInput, own.InvocationResultMessageOutput]("InvocationResultMessage"),
	pair[iii.InvokeFunctionMessage, own.InvokeFunctionMessageInput, own.InvokeFunctionMessageOutput]("InvokeFunctionMessage"),
	pair[iii.LogEvent, own.LogEventInput, own.LogEventOutput]("LogEvent"),
	pair[iii.LogInput, own.LogInputInput, own.LogInputOutput]("LogInput"),
	pair[iii.LogLevel, own.LogLevelInput, own.LogLevelOutput]("LogLevel"),
	pair[iii.LogTriggerConfig, own.LogTriggerConfigInput, own.LogTriggerConfigOutput]("LogTriggerConfig"),
	pair[iii.LogsListInput, own.LogsListInputInput, own.LogsListInputOutput]("LogsListInput"),
	pair[iii.LogsListQuery, own.LogsListQueryInput, own.LogsListQueryOutput]("LogsListQuery"),
	pair[iii.LogsListResult, own.LogsListResultInput, own.LogsListResultOutput]("LogsListResult"),
	pair[iii.MergePath, own.MergePathInput, own.MergePathOutput]("MergePath"),
	pair[iii.MessageType, own.MessageTypeInput, own.MessageTypeOutput]("MessageType"),
	pair[iii.MetricDataPoint, own.MetricDataPointInput, own.MetricDataPointOutput]("MetricDataPoint"),
	pair[iii.MetricsListInput, own.MetricsListInputInput, own.MetricsListInputOutput]("MetricsListInput"),
	pair[iii.MetricsListQuery, own.MetricsListQueryInput, own.MetricsListQueryOutput]("MetricsListQuery"),
	pair[iii.MetricsListResult, own.MetricsListResultInput, own.MetricsListResultOutput]("MetricsListResult"),
	pair[iii.MiddlewareInput, own.MiddlewareInputInput, own.MiddlewareInputOutput]("MiddlewareInput"),
	pair[iii.NumberDataPoint, own.NumberDataPointInput, own.NumberDataPointOutput]("NumberDataPoint"),
	pair[iii.OnFunctionRegistrationInput, own.OnFunctionRegistrationInputInput, own.OnFunctionRegistrationInputOutput]("OnFunctionRegistrationInput"),
	pair[iii.OnFunctionRegistrationResult, own.OnFunctionRegistrationResultInput, own.OnFunctionRegistrationResultOutput]("OnFunctionRegistrationResult"),
	pair[iii.OnTriggerRegistrationInput, own.OnTriggerRegistrationInputInput, own.OnTriggerRegistrationInputOutput]("OnTriggerRegistrationInput"),
	pair[iii.OnTriggerRegistrationResult, own.OnTriggerRegistrationResultInput, own.OnTriggerRegistrationResultOutput]("OnTriggerRegistrationResult"),
	pair[iii.OnTriggerTypeRegistrationInput, own.OnTriggerTypeRegistrationInputInput, own.OnTriggerTypeRegistrationInputOutput]("OnTriggerTypeRegistrationInput"),
	pair[iii.OnTriggerTypeRegistrationResult, own.OnTriggerTypeRegistrationResultInput, own.OnTriggerTypeRegistrationResultOutput]("OnTriggerTypeRegistrationResult"),
	pair[iii.OtelConfig, own.OtelConfigInput, own.OtelConfigOutput]("OtelConfig"),
	pair[iii.OtelMessage, own.OtelMessageInput, own.OtelMessageOutput]("OtelMessage"),
	pair[iii.PingMessage, own.PingMessageInput, own.PingMessageOutput]("PingMessage"),
	pair[iii.PongMessage, own.PongMessageInput, own.PongMessageOutput]("PongMessage"),
	pair[iii.PublishInput, own.PublishInputInput, own.PublishInputOutput]("PublishInput"),
	pair[iii.QueueConfig, own.QueueConfigInput, own.QueueConfigOutput]("QueueConfig"),
	pair[iii.QueueDiscardMessageInput, own.QueueDiscardMessageInputInput, own.QueueDiscardMessageInputOutput]("QueueDiscardMessageInput"),
	pair[iii.QueueDiscardMessageResult, own.QueueDiscardMessageResultInput, own.QueueDiscardMessageResultOutput]("QueueDiscardMessageResult"),
	pair[iii.QueueEnqueueInput, own.QueueEnqueueInputInput, own.QueueEnqueueInputOutput]("QueueEnqueueInput"),
	pair[iii.QueueRedriveInput, own.QueueRedriveInputInput, own.QueueRedriveInputOutput]("QueueRedriveInput"),
	pair[iii.QueueRedriveMessageInput, own.QueueRedriveMessageInputInput, own.QueueRedriveMessageInputOutput]("QueueRedriveMessageInput"),
	pair[iii.QueueRedriveMessageResult, own.QueueRedriveMessageResultInput, own.QueueRedriveMessageResultOutput]("QueueRedriveMessageResult"),
	pair[iii.QueueRedriveResult, own.QueueRedriveResultInput, own.QueueRedriveResultOutput]("QueueRedriveResult"),
	pair[iii.QueueTriggerConfig, own.QueueTriggerConfigInput, own.QueueTriggerConfigOutput]("QueueTriggerConfig"),
	pair[iii.ReattachMessage, own.ReattachMessageInput, own.ReattachMessageOutput]("ReattachMessage"),
	pair[iii.ReconnectionConfig, own.ReconnectionConfigInput, own.ReconnectionConfigOutput]("ReconnectionConfig"),
	pair[iii.RegisterFunctionMessage, own.RegisterFunctionMessageInput, own.RegisterFunctionMessageOutput]("RegisterFunctionMessage"),
	pair[iii.RegisterServiceMessage, own.RegisterServiceMessageInput, own.RegisterServiceMessageOutput]("RegisterServiceMessage"),
	pair[iii.RegisterTriggerInput, own.RegisterTriggerInputInput, own.RegisterTriggerInputOutput]("RegisterTriggerInput"),
	pair[iii.RegisterTriggerMessage, own.RegisterTriggerMessageInput, own.RegisterTriggerMessageOutput]("RegisterTriggerMessage"),
	pair[iii.RegisterTriggerResult, own.RegisterTriggerResultInput, own.RegisterTriggerResultOutput]("RegisterTriggerResult"),
	pair[iii.RegisterTriggerTypeMessage, own.RegisterTriggerTypeMessageInput, own.RegisterTriggerTypeMessageOutput]("RegisterTriggerTypeMessage"),
	pair[iii.RegistrationRejectedMessage, own.RegistrationRejectedMessageInput, own.RegistrationRejectedMessageOutput]("RegistrationRejectedMessage"),
	pair[iii.RollupsListInput, own.RollupsListInputInput, own.RollupsListInputOutput]("RollupsListInput"),
	pair[iii.RollupsListQuery, own.RollupsListQueryInput, own.RollupsListQueryOutput]("RollupsListQuery"),
	pair[iii.RollupsListResult, own.RollupsListResultInput, own.RollupsListResultOutput]("RollupsListResult"),
	pair[iii.SamplingLogs, own.SamplingLogsInput, own.SamplingLogsOutput]("SamplingLogs"),
	pair[iii.SamplingRule, own.SamplingRuleInput, own.SamplingRuleOutput]("SamplingRule"),
	pair[iii.SamplingRulesResult, own.SamplingRulesResultInput, own.SamplingRulesResultOutput]("SamplingRulesResult"),
	pair[iii.SamplingTraces, own.SamplingTracesInput, own.SamplingTracesOutput]("SamplingTraces"),
	pair[iii.StateDeleteInput, own.StateDeleteInputInput, own.StateDeleteInputOutput]("StateDeleteInput"),
	pair[iii.StateEvent, own.StateEventInput, own.StateEventOutput]("StateEvent"),
	pair[iii.StateEventType, own.StateEventTypeInput, own.StateEventTypeOutput]("StateEventType"),
	pair[iii.StateGetInput, own.StateGetInputInput, own.StateGetInputOutput]("StateGetInput"),
	pair[iii.StateListGroupsResult, own.StateListGroupsResultInput, own.StateListGroupsResultOutput]("StateListGroupsResult"),
	pair[iii.StateListInput, own.StateListInputInput, own.StateListInputOutput]("StateListInput"),
	pair[iii.StateSetInput, own.StateSetInputInput, own.StateSetInputOutput]("StateSetInput"),
	pair[iii.StateSetResult, own.StateSetResultInput, own.StateSetResultOutput]("StateSetResult"),
	pair[iii.StateTriggerConfig, own.StateTriggerConfigInput, own.StateTriggerConfigOutput]("StateTriggerConfig"),
	pair[iii.StateUpdateInput, own.StateUpdateInputInput, own.StateUpdateInputOutput]("StateUpdateInput"),
	pair[iii.StateUpdateResult, own.StateUpdateResultInput, own.StateUpdateResultOutput]("StateUpdateResult"),
	pair[iii.StoredAttribute, own.StoredAttributeInput, own.StoredAttributeOutput]("StoredAttribute"),
	pair[iii.StoredEvent, own.StoredEventInput, own.StoredEventOutput]("StoredEvent"),
	pair[iii.StoredLink, own.StoredLinkInput, own.StoredLinkOutput]("StoredLink"),
	pair[iii.StoredLog, own.StoredLogInput, own.StoredLogOutput]("StoredLog"),
	pair[iii.StoredMetric, own.StoredMetricInput, own.StoredMetricOutput]("StoredMetric"),
	pair[iii.StoredSpan, own.StoredSpanInput, own.StoredSpanOutput]("StoredSpan"),
	pair[iii.StreamAuthInput, own.StreamAuthInputInput, own.StreamAuthInputOutput]("StreamAuthInput"),
	pair[iii.StreamAuthResult, own.StreamAuthResultInput, own.StreamAuthResultOutput]("StreamAuthResult"),
	pair[iii.StreamChangeEvent, own.StreamChangeEventInput, own.StreamChangeEventOutput]("StreamChangeEvent"),
	pair[iii.StreamChangeEventDetail, own.StreamChangeEventDetailInput, own.StreamChangeEventDetailOutput]("StreamChangeEventDetail"),
	pair[iii.StreamChannelDirection, own.StreamChannelDirectionInput, own.StreamChannelDirectionOutput]("StreamChannelDirection"),
	pair[iii.StreamChannelRef, own.StreamChannelRefInput, own.StreamChannelRefOutput]("StreamChannelRef"),
	pair[iii.StreamCommand, own.StreamCommandInput, own.StreamCommandOutput]("StreamCommand"),
	pair[iii.StreamCommandType, own.StreamCommandTypeInput, own.StreamCommandTypeOutput]("StreamCommandType"),
	pair[iii.StreamDeleteInput, own.StreamDeleteInputInput, own.StreamDeleteInputOutput]("StreamDeleteInput"),
	pair[iii.StreamDeleteResult, own.StreamDeleteResultInput, own.StreamDeleteResultOutput]("StreamDeleteResult"),
	pair[iii.StreamEventType, own.StreamEventTypeInput, own.StreamEventTypeOutput]("StreamEventType"),
	pair[iii.StreamGetInput, own.StreamGetInputInput, own.StreamGetInputOutput]("StreamGetInput"),
	pair[iii.StreamJoinLeaveEvent, own.StreamJoinLeaveEventInput, own.StreamJoinLeaveEventOutput]("StreamJoinLeaveEvent"),
	pair[iii.StreamJoinLeaveTriggerConfig, own.StreamJoinLeaveTriggerConfigInput, own.StreamJoinLeaveTriggerConfigOutput]("StreamJoinLeaveTriggerConfig"),
	pair[iii.StreamJoinResult, own.StreamJoinResultInput, own.StreamJoinResultOutput]("StreamJoinResult"),
	pair[iii.StreamListAllResult, own.StreamListAllResultInput, own.StreamListAllResultOutput]("StreamListAllResult"),
	pair[iii.StreamListGroupsInput, own.StreamListGroupsInputInput, own.StreamListGroupsInputOutput]("StreamListGroupsInput"),
	pair[iii.StreamListInput, own.StreamListInputInput, own.StreamListInputOutput]("StreamListInput"),
	pair[iii.StreamMessage, own.StreamMessageInput, own.StreamMessageOutput]("StreamMessage"),
	pair[iii.StreamSendInput, own.StreamSendInputInput, own.StreamSendInputOutput]("StreamSendInput"),
	pair[iii.StreamSetInput, own.StreamSetInputInput, own.StreamSetInputOutput]("StreamSetInput"),
	pair[iii.StreamSetResult, own.StreamSetResultInput, own.StreamSetResultOutput]("StreamSetResult"),
	pair[iii.StreamSubscription, own.StreamSubscriptionInput, own.StreamSubscriptionOutput]("StreamSubscription"),
	pair[iii.StreamSummary, own.StreamSummaryInput, own.StreamSummaryOutput]("StreamSummary"),
	pair[iii.StreamTriggerConfig, own.StreamTriggerConfigInput, own.StreamTriggerConfigOutput]("StreamTriggerConfig"),
	pair[iii.StreamUpdateInput, own.StreamUpdateInputInput, own.StreamUpdateInputOutput]("StreamUpdateInput"),
	pair[iii.StreamUpdateResult, own.StreamUpdateResultInput, own.StreamUpdateResultOutput]("StreamUpdateResult"),
	pair[iii.StringList, own.StringListInput, own.StringListOutput]("StringList"),
	pair[iii.StringListMap, own.StringListMapInput, own.StringListMapOutput]("StringListMap"),
	pair[iii.StringMap, own.StringMapInput, own.StringMapOutput]("StringMap"),
	pair[iii.SubscribeTriggerConfig, own.SubscribeTriggerConfigInput, own.SubscribeTriggerConfigOutput]("SubscribeTriggerConfig"),
	pair[iii.TopicStats, own.TopicStatsInput, own.TopicStatsOutput]("TopicStats"),
	pair[iii.TopicStatsInput, own.TopicStatsInputInput, own.TopicStatsInputOutput]("TopicStatsInput"),
	pair[iii.TopicSummary, own.TopicSummaryInput, own.TopicSummaryOutput]("TopicSummary"),
	pair[iii.TraceEvent, own.TraceEventInput, own.TraceEventOutput]("TraceEvent"),
	pair[iii.TraceGroup, own.TraceGroupInput, own.TraceGroupOutput]("TraceGroup"),
	pair[iii.TraceNode, own.TraceNodeInput, own.TraceNodeOutput]("TraceNode"),
	pair[iii.TraceStorage, own.TraceStorageInput, own.TraceStorageOutput]("TraceStorage"),
	pair[iii.TraceTriggerConfig, own.TraceTriggerConfigInput, own.TraceTriggerConfigOutput]("TraceTriggerConfig"),
	pair[iii.TracesGroupByInput, own.TracesGroupByInputInput, own.TracesGroupByInputOutput]("TracesGroupByInput"),
	pair[iii.TracesGroupByResult, own.TracesGroupByResultInput, own.TracesGroupByResultOutput]("TracesGroupByResult"),
	pair[iii.TracesListInput, own.TracesListInputInput, own.TracesListInputOutput]("TracesListInput"),
	pair[iii.TracesListResult, own.TracesListResultInput, own.TracesListResultOutput]("TracesListResult"),
	pair[iii.TracesTreeInput, own.TracesTreeInputInput, own.TracesTreeInputOutput]("TracesTreeInput"),
	pair[iii.TracesTreeResult, own.TracesTreeResultInput, own.TracesTreeResultOutput]("TracesTreeResult"),
	pair[iii.TriggerAction, own.TriggerActionInput, own.TriggerActionOutput]("TriggerAction"),
	pair[iii.TriggerActionType, own.TriggerActionTypeInput, own.TriggerActionTypeOutput]("TriggerActionType"),
	pair[iii.TriggerDetail, own.TriggerDetailInput, own.TriggerDetailOutput]("TriggerDetail"),
	pair[iii.TriggerFilter, own.TriggerFilterInput, own.TriggerFilterOutput]("TriggerFilter"),
	pair[iii.TriggerInfoInput, own.TriggerInfoInputInput, own.TriggerInfoInputOutput]("TriggerInfoInput"),
	pair[iii.TriggerRegistrationResultMessage, own.TriggerRegistrationResultMessageInput, own.TriggerRegistrationResultMessageOutput]("TriggerRegistrationResultMessage"),
	pair[iii.TriggerSummary, own.TriggerSummaryInput, own.TriggerSummaryOutput]("TriggerSummary"),
	pair[iii.TriggerTypeDetail, own.TriggerTypeDetailInput, own.TriggerTypeDetailOutput]("TriggerTypeDetail"),
	pair[iii.TriggerTypeFilter, own.TriggerTypeFilterInput, own.TriggerTypeFilterOutput]("TriggerTypeFilter"),
	pair[iii.TriggerTypeInfoInput, own.TriggerTypeInfoInputInput, own.TriggerTypeInfoInputOutput]("TriggerTypeInfoInput"),
	pair[iii.TriggerTypeSummary, own.TriggerTypeSummaryInput, own.TriggerTypeSummaryOutput]("TriggerTypeSummary"),
	pair[iii.TriggerTypesListResult, own.TriggerTypesListResultInput, own.TriggerTypesListResultOutput]("TriggerTypesListResult"),
	pair[iii.TriggersListResult, own.TriggersListResultInput, own.TriggersListResultOutput]("TriggersListResult"),
	pair[iii.UnregisterFunctionMessage, own.UnregisterFunctionMessageInput, own.UnregisterFunctionMessageOutput]("UnregisterFunctionMessage"),
	pair[iii.UnregisterTriggerInput, own.UnregisterTriggerInputInput, own.UnregisterTriggerInputOutput]("UnregisterTriggerInput"),
	pair[iii.UnregisterTriggerMessage, own.UnregisterTriggerMessageInput, own.UnregisterTriggerMessageOutput]("UnregisterTriggerMessage"),
	pair[iii.UnregisterTriggerResult, own.UnregisterTriggerResultInput, own.UnregisterTriggerResultOutput]("UnregisterTriggerResult"),
	pair[iii.UpdateAppend, own.UpdateAppendInput, own.UpdateAppendOutput]("UpdateAppend"),
	pair[iii.UpdateDecrement, own.UpdateDecrementInput, own.UpdateDecrementOutput]("UpdateDecrement"),
	pair[iii.UpdateIncrement, own.UpdateIncrementInput, own.UpdateIncrementOutput]("UpdateIncrement"),
	pair[iii.UpdateMerge, own.UpdateMergeInput, own.UpdateMergeOutput]("UpdateMerge"),
	pair[iii.UpdateOp, own.UpdateOpInput, own.UpdateOpOutput]("UpdateOp"),
	pair[iii.UpdateOpError, own.UpdateOpErrorInput, own.UpdateOpErrorOutput]("UpdateOpError"),
	pair[iii.UpdateOpType, own.UpdateOpTypeInput, own.UpdateOpTypeOutput]("UpdateOpType"),
	pair[iii.UpdateRemove, own.UpdateRemoveInput, own.UpdateRemoveOutput]("UpdateRemove"),
	pair[iii.UpdateSet, own.UpdateSetInput, own.UpdateSetOutput]("UpdateSet"),
	pair[iii.Worker, own.WorkerInput, own.WorkerOutput]("Worker"),
	pair[iii.WorkerDetail, own.WorkerDetailInput, own.WorkerDetailOutput]("WorkerDetail"),
	pair[iii.WorkerEventType, own.WorkerEventTypeInput, own.WorkerEventTypeOutput]("WorkerEventType"),
	pair[iii.WorkerFilter, own.WorkerFilterInput, own.WorkerFilterOutput]("WorkerFilter"),
	pair[iii.WorkerGaugesOptions, own.WorkerGaugesOptionsInput, own.WorkerGaugesOptionsOutput]("WorkerGaugesOptions"),
	pair[iii.WorkerInfoInput, own.WorkerInfoInputInput, own.WorkerInfoInputOutput]("WorkerInfoInput"),
	pair[iii.WorkerMetrics, own.WorkerMetricsInput, own.WorkerMetricsOutput]("WorkerMetrics"),
	pair[iii.WorkerMetricsReport, own.WorkerMetricsReportInput, own.WorkerMetricsReportOutput]("WorkerMetricsReport"),
	pair[iii.WorkerRegisterInput, own.WorkerRegisterInputInput, own.WorkerRegisterInputOutput]("WorkerRegisterInput"),
	pair[iii.WorkerRegisterResult, own.WorkerRegisterResultInput, own.WorkerRegisterResultOutput]("WorkerRegisterResult"),
	pair[iii.WorkerRegisteredMessage, own.WorkerRegisteredMessageInput, own.WorkerRegisteredMessageOutput]("WorkerRegisteredMessage"),
	pair[iii.WorkerSummary, own.WorkerSummaryInput, own.WorkerSummaryOutput]("WorkerSummary"),
	pair[iii.WorkerTelemetry, own.WorkerTelemetryInput, own.WorkerTelemetryOutput]("WorkerTelemetry"),
	pair[iii.WorkersAvailableEvent, own.WorkersAvailableEventInput, own.WorkersAvailableEventOutput]("WorkersAvailableEvent"),
	pair[iii.WorkersAvailableTrigger, own.WorkersAvailableTriggerInput, own.WorkersAvailableTriggerOutput]("WorkersAvailableTrigger"),
	pair[iii.WorkersListResult, own.WorkersListResultInput, own.WorkersListResultOutput]("WorkersListResult"),
	pair[iii.HTTPRequest[json.RawMessage], own.HTTPRequestInput, own.HTTPRequestOutput]("HTTPRequest"),
	pair[iii.HTTPResponse[json.RawMessage], own.HTTPResponseInput, own.HTTPResponseOutput]("HTTPResponse"),
}

// advertised returns what an engine says of functions.
func advertised(t *testing.T, serve func(ownType) func(*iii.Client) (*iii.Function, error)) map[string]iii.FunctionDetail {
	t.Helper()
	c := connect(t)
	details := make(map[string]iii.FunctionDetail)
	for _, o := range ownTypes {
		f, err := serve(o)(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Err(); err != nil {
			t.Fatal(err)
		}
		if details[o.name], err = c.FunctionInfo(t.Context(), "own::"+o.name); err != nil {
			t.Fatal(err)
		}
	}
	return details
}

func TestOwnTypesAreAllCompared(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "../../../../types_gen.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[string]bool)
	for _, d := range f.Decls {
		if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.TYPE {
			for _, s := range g.Specs {
				want[s.(*ast.TypeSpec).Name.Name] = true
			}
		}
	}
	delete(want, "JSONValue") // an alias
	got := make(map[string]bool)
	for _, o := range ownTypes {
		got[o.name] = true
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got))); diff != "" {
		t.Errorf("types of package iii (-types_gen.go +compared):\n%s", diff)
	}
}

// A type's schema makes Go types, and these make the same schema.
func TestOwnSchemasSurviveTheirGeneratedTypes(t *testing.T) {
	before := advertised(t, func(o ownType) func(*iii.Client) (*iii.Function, error) { return o.serveOwn })
	if *update {
		writeOwnCatalog(t, before)
	}
	after := advertised(t, func(o ownType) func(*iii.Client) (*iii.Function, error) { return o.serveMade })
	for _, o := range ownTypes {
		if diff := cmp.Diff(plain(t, before[o.name].RequestSchema), plain(t, after[o.name].RequestSchema)); diff != "" {
			t.Errorf("%s: request (-package iii +generated):\n%s", o.name, diff)
		}
		if diff := cmp.Diff(plain(t, before[o.name].ResponseSchema), plain(t, after[o.name].ResponseSchema)); diff != "" {
			t.Errorf("%s: response (-package iii +generated):\n%s", o.name, diff)
		}
	}
}

func writeOwnCatalog(t *testing.T, details map[string]iii.FunctionDetail) {
	t.Helper()
	type entry struct {
		ID       string          `json:"id"`
		Request  json.RawMessage `json:"request_schema"`
		Response json.RawMessage `json:"response_schema"`
	}
	catalog := struct {
		Version   int     `json:"version"`
		Functions []entry `json:"functions"`
	}{Version: 1}
	for _, name := range slices.Sorted(maps.Keys(details)) {
		catalog.Functions = append(catalog.Functions, entry{"own::" + name, details[name].RequestSchema, details[name].ResponseSchema})
	}
	raw, err := json.MarshalIndent(catalog, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ownCatalog, append(raw, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Values of the package's types are values of the generated ones, which encode them alike.
func TestOwnValuesSurviveTheirGeneratedTypes(t *testing.T) {
	tags := make(map[string]string)
	for _, r := range recordings(t, "own") {
		var schema struct {
			Properties struct {
				Type struct {
					Const string `json:"const"`
				} `json:"type"`
			} `json:"properties"`
		}
		if err := json.Unmarshal(r.Request, &schema); err != nil {
			t.Fatal(err)
		}
		tags[strings.TrimPrefix(r.ID, "own::")] = schema.Properties.Type.Const
	}
	var unencodable []string
	for _, o := range ownTypes {
		for _, filled := range []bool{false, true} {
			v := reflect.New(o.own)
			if filled {
				fill(v.Elem(), 0)
			}
			if o.own == reflect.TypeFor[iii.OtelMessage]() && !filled {
				continue // null, which its schema does not allow
			}
			if tag := tags[o.name]; tag != "" { // the only value that the schema allows
				v.Elem().FieldByName("Type").SetString(tag)
			}
			raw, err := json.Marshal(v.Interface())
			if err != nil { // a union without a variant
				unencodable = append(unencodable, o.name)
				continue
			}
			for _, typ := range []reflect.Type{o.in, o.out} {
				made := reflect.New(typ)
				if err := json.Unmarshal(raw, made.Interface()); err != nil {
					t.Errorf("%s: %s does not decode into %v: %v", o.name, raw, typ, err)
					continue
				}
				again, err := json.Marshal(made.Interface())
				if err != nil {
					t.Errorf("%s: %v: %v", o.name, typ, err)
					continue
				}
				if diff := cmp.Diff(plain(t, raw), plain(t, again)); diff != "" {
					t.Errorf("%v changes values of iii.%s (-iii +generated):\n%s", typ, o.name, diff)
				}
			}
		}
	}
	unencodable = slices.Compact(unencodable)
	t.Logf("without a value: %s", strings.Join(unencodable, ", "))
	if len(unencodable) > len(ownTypes)/10 {
		t.Errorf("%d types have no value to compare", len(unencodable))
	}
}

// fill sets what can be set, to other values than zero.
func fill(v reflect.Value, depth int) {
	if depth > 6 {
		return
	}
	if v.Type() == reflect.TypeFor[json.RawMessage]() {
		v.SetBytes([]byte(`{"any":[1,"x",null,true]}`))
		return
	}
	if v.Type() == reflect.TypeFor[time.Time]() {
		v.Set(reflect.ValueOf(time.Date(2026, 5, 4, 12, 30, 0, 5, time.UTC)))
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString("text")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(-7)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(7)
	case reflect.Float32, reflect.Float64:
		v.SetFloat(1.5)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), depth+1)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			fill(v.Index(i), depth+1)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(k, depth+1)
		fill(e, depth+1)
		v.SetMapIndex(k, e)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i), depth+1)
			}
		}
	}
}
